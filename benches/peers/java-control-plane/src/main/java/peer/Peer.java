package peer;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.sun.net.httpserver.HttpServer;
import io.envoyproxy.controlplane.cache.NodeGroup;
import io.envoyproxy.controlplane.cache.v3.SimpleCache;
import io.envoyproxy.controlplane.cache.v3.Snapshot;
import io.envoyproxy.controlplane.server.V3DiscoveryServer;
import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.listener.v3.Listener;
import io.envoyproxy.envoy.config.route.v3.RouteConfiguration;
import io.envoyproxy.envoy.service.discovery.v3.DeltaDiscoveryResponse;
import io.envoyproxy.envoy.service.discovery.v3.Resource;
import io.grpc.Server;
import io.grpc.netty.NettyServerBuilder;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.FileInputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * java-control-plane as a peer of the benches: it serves recorded resources from one snapshot for all nodes, and is told of
 * changes over HTTP.
 */
public final class Peer {
  private final Map<String, Cluster> clusters = new LinkedHashMap<>();
  private final Map<String, ClusterLoadAssignment> endpoints = new LinkedHashMap<>();
  private final Map<String, Listener> listeners = new LinkedHashMap<>();
  private final Map<String, RouteConfiguration> routes = new LinkedHashMap<>();
  private final SimpleCache<String> cache = new SimpleCache<>(new Everyone());
  private int clusterVersion;
  private int endpointVersion;

  /** All nodes are in one group. */
  private static final class Everyone implements NodeGroup<String> {
    @Override
    public String hash(io.envoyproxy.envoy.config.core.v3.Node node) {
      return "everyone";
    }
  }

  private void read(String path) throws Exception {
    try (DataInputStream file = new DataInputStream(new FileInputStream(path))) {
      while (true) {
        int length;
        try {
          length = file.readInt();
        } catch (EOFException end) {
          return;
        }
        for (Resource one : DeltaDiscoveryResponse.parseFrom(file.readNBytes(length)).getResourcesList()) {
          keep(one.getName(), one.getResource());
        }
      }
    }
  }

  private void keep(String name, Any any) throws Exception {
    if (any.is(Cluster.class)) {
      clusters.put(name, any.unpack(Cluster.class));
    } else if (any.is(ClusterLoadAssignment.class)) {
      endpoints.put(name, any.unpack(ClusterLoadAssignment.class));
    } else if (any.is(Listener.class)) {
      listeners.put(name, any.unpack(Listener.class));
    } else if (any.is(RouteConfiguration.class)) {
      routes.put(name, any.unpack(RouteConfiguration.class));
    }
  }

  private void publish() {
    cache.setSnapshot(
        "everyone",
        Snapshot.create(
            clusters.values(), "c" + clusterVersion,
            endpoints.values(), "e" + endpointVersion,
            listeners.values(), "l",
            routes.values(), "r",
            List.of(), "s"));
  }

  private synchronized boolean change(String kind, String name, int number) {
    if (kind.equals("endpoint") && endpoints.containsKey(name)) {
      ClusterLoadAssignment.Builder assignment = endpoints.get(name).toBuilder();
      assignment.getEndpointsBuilder(0).getLbEndpointsBuilder(0).getEndpointBuilder().getAddressBuilder()
          .getSocketAddressBuilder().setPortValue(number);
      endpoints.put(name, assignment.build());
      endpointVersion++;
    } else if (kind.equals("cluster") && clusters.containsKey(name)) {
      Duration timeout =
          Duration.newBuilder().setSeconds(number / 1000).setNanos(number % 1000 * 1_000_000).build();
      clusters.put(name, clusters.get(name).toBuilder().setConnectTimeout(timeout).build());
      clusterVersion++;
    } else {
      return false;
    }
    publish();
    return true;
  }

  private HttpServer control() throws Exception {
    HttpServer control = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 128);
    control.createContext("/", exchange -> {
      String[] parts = exchange.getRequestURI().getPath().split("/");
      boolean done = parts.length == 4 && change(parts[1], parts[2], Integer.parseInt(parts[3]));
      exchange.sendResponseHeaders(done ? 204 : 404, -1);
      exchange.close();
    });
    control.start();
    return control;
  }

  public static void main(String[] arguments) throws Exception {
    String resources = null;
    for (int index = 0; index + 1 < arguments.length; index++) {
      if (arguments[index].equals("--resources")) {
        resources = arguments[index + 1];
      }
    }
    Peer peer = new Peer();
    peer.read(resources);
    peer.publish();
    V3DiscoveryServer discovery = new V3DiscoveryServer(peer.cache);
    Server streams =
        NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
            .maxInboundMessageSize(64 << 20)
            .withOption(io.netty.channel.ChannelOption.SO_BACKLOG, 4096)
            .addService(discovery.getAggregatedDiscoveryServiceImpl())
            .build()
            .start();
    HttpServer control = peer.control();
    System.out.printf("listening xds=127.0.0.1:%d control=127.0.0.1:%d%n", streams.getPort(), control.getAddress().getPort());
    streams.awaitTermination();
  }
}
