#!/usr/bin/env bash
# fresh.sh [debian]: runs `make demo` in a fresh clone of this checkout, as somebody new to it would, and holds its output
# against what the demo is to show.
#
# The clone has a HOME, a CARGO_HOME and a .tools of its own, all empty; only the Rust toolchain is shared. With `debian` it
# stands in a minimal Debian with the README's prerequisites and nothing else, which needs root and debootstrap.
# Committed files alone are cloned. Nothing is left behind, but for what a caller asks for: with FRESH_HOME, an empty folder,
# as the HOME, and FRESH_BUILD as the folder of the build, both stay.
set -euo pipefail

# The prerequisites that README.md names, beside a Rust toolchain.
PREREQUISITES="ca-certificates curl gcc git libc6-dev make python3"
SUITE=${FRESH_DEBIAN_SUITE:-bookworm}
MIRROR=${FRESH_DEBIAN_MIRROR:-http://deb.debian.org/debian}
# From the end of the build to the first request through Envoy.
FIRST_REQUEST_S=60

root=$(cd "$(dirname "$0")/.." && pwd)
where=${1:-}
fail() { printf 'fresh: %s\n' "$*" >&2; exit 1; }

case $where in
    '') ;;
    debian)
        [ "$(id -u)" = 0 ] || fail "root is missing: debootstrap and chroot need it."
        command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap."
        ;;
    *) fail "$where is unknown: expected nothing or 'debian'." ;;
esac

work=$(mktemp -d "${TMPDIR:-/tmp}/chancery-fresh.XXXXXX")
finish() {
    trap - EXIT
    # What is mounted is mounted in a namespace of its own and gone by now.
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# here: make demo in $work/checkout.
here() {
    home=${FRESH_HOME:-$work/home}
    mkdir -p "$home"
    [ -z "$(ls -A "$home")" ] || fail "FRESH_HOME=$home is not empty."
    toolchains=${RUSTUP_HOME:-$HOME/.rustup}
    # Neither this checkout's tools nor its build; RUSTUP_TOOLCHAIN as well would hide rust-toolchain.toml.
    path=$(printf %s "$PATH" | tr : '\n' | grep -vxF "$root/.tools/bin" | paste -sd :)
    cd "$work/checkout"
    env -u RUSTUP_TOOLCHAIN -u RUSTFLAGS -u MAKEFLAGS -u MAKELEVEL -u MFLAGS -u KEEP \
        HOME="$home" CARGO_HOME="$home/.cargo" CARGO_TARGET_DIR="${FRESH_BUILD:-$work/checkout/target}" \
        RUSTUP_HOME="$toolchains" PATH="$path" make demo
}

# in_debian: the same below $work/debian.
in_debian() {
    debian=$work/debian
    printf 'fresh: debootstrap %s, with %s\n' "$SUITE" "$PREREQUISITES"
    debootstrap --variant=minbase --include="${PREREQUISITES// /,}" "$SUITE" "$debian" "$MIRROR" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 30 "$work/debootstrap.log" >&2; fail "debootstrap failed: see above."; }
    # The machine's way to the network, the authorities it trusts included.
    cp -L /etc/resolv.conf /etc/hosts "$debian/etc/"
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$debian/etc/ssl/certs/"
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$debian/etc/pip.conf"
    fi
    mkdir -p "$debian/opt/rust"
    tar -C "$(cd "$root" && rustc --print sysroot)" --exclude=share -c . | tar -C "$debian/opt/rust" -x
    mv "$work/checkout" "$debian/root/chancery"
    unshare --mount -- sh -euc '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        exec env -i HOME=/root PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
            LANG=C.UTF-8 chroot "$1" make -C /root/chancery demo
    ' sh "$debian"
}

git clone --quiet --no-hardlinks "$root" "$work/checkout"

began=$(date +%s)
# Each line with its time.
set +e
(
    set -e
    if [ "$where" = debian ]; then in_debian; else here; fi
) 2>&1 | while IFS= read -r line; do
    printf '%s\n' "$line"
    printf '%s %s\n' "$(date +%s)" "$line" >>"$work/log"
done
code=${PIPESTATUS[0]}
set -e
[ "$code" = 0 ] || fail "make demo ended with $code: see above."

# shows TEXT: the next line that contains it, after those that were looked for before.
at=0
shows() {
    found=$(tail -n +$((at + 1)) "$work/log" | grep -n -m 1 -F -- "$1") || fail "make demo did not show, in its place: $1"
    at=$((at + ${found%%:*}))
    found=${found#*:}
    moment=${found%% *}
}
shows 'Finished `dev` profile'
built=$moment
shows 'Start etcd'
shows 'Put two clusters and a route into etcd'
shows '(live '
shows 'blue answers'
first=$moment
shows 'Change the route'
shows '(live '
shows 'green answers'
shows 'Make a mistake'
shows 'rejected'
shows 'green answers'
shows 'Look at it'
shows 'edge-1'
[ $((first - built)) -le $FIRST_REQUEST_S ] ||
    fail "the first request came $((first - built)) s after the build, expected at most $FIRST_REQUEST_S s."
[ -z "$(find "$work" -path '*/.tools/bin/node')" ] || fail "make demo fetched Node, which it does not need."
printf 'fresh: passed; the first request %s s after the build, all of it %s s.\n' $((first - built)) $(($(date +%s) - began))
