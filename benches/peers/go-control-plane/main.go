// go-control-plane as a peer of the benches: it serves recorded resources and is told of changes over HTTP.
//
// One snapshot for all nodes with --cache snapshot (SnapshotCache, ads), a LinearCache a type behind a MuxCache with
// --cache linear.
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// everyone puts all nodes into one group.
type everyone struct{}

func (everyone) ID(*corev3.Node) string { return "everyone" }

// store is one of the two caches behind one door.
type store interface {
	set(typeURL, name string, message types.Resource) error
	cache() cachev3.Cache
}

type snapshots struct {
	cached    cachev3.SnapshotCache
	resources map[string]map[string]types.Resource
	versions  map[string]int
}

func (s *snapshots) cache() cachev3.Cache { return s.cached }

func (s *snapshots) set(typeURL, name string, message types.Resource) error {
	s.resources[typeURL][name] = message
	s.versions[typeURL]++
	return s.publish()
}

// publish makes a whole snapshot, as the library asks for; only the type that changed has a new version.
func (s *snapshots) publish() error {
	lists := map[resource.Type][]types.Resource{}
	for typeURL, named := range s.resources {
		for _, message := range named {
			lists[typeURL] = append(lists[typeURL], message)
		}
	}
	snapshot, err := cachev3.NewSnapshot("0", lists)
	if err != nil {
		return err
	}
	for typeURL := range s.resources {
		snapshot.Resources[cachev3.GetResponseType(typeURL)].Version = strconv.Itoa(s.versions[typeURL])
	}
	return s.cached.SetSnapshot(context.Background(), "everyone", snapshot)
}

type linears struct {
	byType map[string]*cachev3.LinearCache
	mux    *cachev3.MuxCache
}

func (l *linears) cache() cachev3.Cache { return l.mux }

func (l *linears) set(typeURL, name string, message types.Resource) error {
	return l.byType[typeURL].UpdateResource(name, message)
}

func newLinears(resources map[string]map[string]types.Resource) *linears {
	l := &linears{byType: map[string]*cachev3.LinearCache{}}
	l.mux = &cachev3.MuxCache{
		Classify:      func(request *cachev3.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cachev3.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        map[string]cachev3.Cache{},
	}
	for typeURL, named := range resources {
		l.byType[typeURL] = cachev3.NewLinearCache(typeURL, cachev3.WithInitialResources(named))
		l.mux.Caches[typeURL] = l.byType[typeURL]
	}
	return l
}

// read takes recorded DeltaDiscoveryResponses, each after its length in four bytes.
func read(path string) (map[string]map[string]types.Resource, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	resources := map[string]map[string]types.Resource{}
	for len(file) >= 4 {
		length := int(binary.BigEndian.Uint32(file))
		var response discoveryv3.DeltaDiscoveryResponse
		if err := proto.Unmarshal(file[4:4+length], &response); err != nil {
			return nil, err
		}
		file = file[4+length:]
		named := resources[response.TypeUrl]
		if named == nil {
			named = map[string]types.Resource{}
			resources[response.TypeUrl] = named
		}
		for _, one := range response.Resources {
			message, err := one.Resource.UnmarshalNew()
			if err != nil {
				return nil, err
			}
			named[one.Name] = message
		}
	}
	return resources, nil
}

// changed is the resource with another port or connect timeout; the one that is served is never written to.
func changed(kind string, message types.Resource, number uint32) types.Resource {
	copied := proto.Clone(message)
	switch kind {
	case "endpoint":
		address := copied.(*endpointv3.ClusterLoadAssignment).Endpoints[0].LbEndpoints[0].GetEndpoint().Address
		address.GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: number}
	case "cluster":
		nanos := int32(number%1000) * 1_000_000
		copied.(*clusterv3.Cluster).ConnectTimeout = &durationpb.Duration{Seconds: int64(number / 1000), Nanos: nanos}
	}
	return copied
}

func main() {
	path := flag.String("resources", "", "recorded resources")
	kind := flag.String("cache", "snapshot", "snapshot or linear")
	flag.String("variant", "", "both are served")
	flag.Parse()
	resources, err := read(*path)
	if err != nil {
		log.Fatal(err)
	}
	var held store
	if *kind == "linear" {
		held = newLinears(resources)
	} else {
		cache := cachev3.NewSnapshotCache(true, everyone{}, nil)
		made := &snapshots{cached: cache, resources: resources, versions: map[string]int{}}
		if err := made.publish(); err != nil {
			log.Fatal(err)
		}
		held = made
	}

	streams, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxConcurrentStreams(1000000), grpc.MaxRecvMsgSize(64<<20))
	ads := serverv3.NewServer(context.Background(), held.cache(), nil)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, ads)
	go func() { log.Fatal(server.Serve(streams)) }()

	urls := map[string]string{"endpoint": resource.EndpointType, "cluster": resource.ClusterType}
	var lock sync.Mutex
	handler := func(answer http.ResponseWriter, request *http.Request) {
		parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
		number, err := strconv.ParseUint(parts[len(parts)-1], 10, 32)
		if len(parts) != 3 || err != nil || resources[urls[parts[0]]][parts[1]] == nil {
			http.Error(answer, "expected /endpoint/NAME/PORT or /cluster/NAME/MILLISECONDS", http.StatusNotFound)
			return
		}
		lock.Lock()
		defer lock.Unlock()
		message := changed(parts[0], resources[urls[parts[0]]][parts[1]], uint32(number))
		resources[urls[parts[0]]][parts[1]] = message
		if err := held.set(urls[parts[0]], parts[1], message); err != nil {
			http.Error(answer, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.WriteHeader(http.StatusNoContent)
	}
	fmt.Printf("listening xds=%s control=%s\n", streams.Addr(), control.Addr())
	log.Fatal(http.Serve(control, http.HandlerFunc(handler)))
}
