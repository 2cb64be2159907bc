#!/bin/sh
# Builds the peers that can be built here, says what is missing for the others, and runs the scenarios that compare them.
set -eu
cd "$(dirname "$0")"
servers=chancery,floor

if command -v go >/dev/null; then
    (cd go-control-plane && go build -o out/peer .)
    servers=$servers,go-snapshot,go-linear
else
    echo "bench-peers: go-control-plane is left out: Go 1.26 is missing" >&2
fi

if command -v mvn >/dev/null && command -v java >/dev/null; then
    (cd java-control-plane && mvn --quiet --batch-mode package)
    servers=$servers,java
else
    echo "bench-peers: java-control-plane is left out: a JDK 17 and Maven are missing" >&2
fi

cd ../..
ulimit -n "$(ulimit -Hn)"
exec cargo bench --bench fleet -- run --servers "$servers" "${@:-base}"
