# The index of commands. Each recipe is a line that can be typed by hand once .tools/bin is on the PATH.

export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help build demo test lint unit property faults golden it conformance e2e bench bench-peers deny tools
.DEFAULT_GOAL := help

help: ## show this
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

build: tools ## build the release binary, target/release/chancery
	cargo build --release

demo: tools ## etcd, the server, two upstreams and a real Envoy on free ports; KEEP=1 keeps them running
	cargo build
	KEEP=$(KEEP) envoy-config/demo/run.sh

test: lint unit property golden it conformance e2e ## everything: format, lints, unit, search, golden, integration (etcd), conformance, end to end (Envoy)

# The same hundred thousand lives each time, so that a find of the search does not fail a change that has nothing to do with
# it. `make property` alone searches elsewhere each time.
test: export INTERLEAVINGS_SEED ?= 16958538614778031098

lint: tools ## formatting and clippy, warnings denied
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

unit: tools ## tests at the foot of the files
	cargo test --lib --bins

# The crate itself is optimised for this one: it is compiled a second time (two minutes), and searches three times as fast.
property: tools ## search a hundred thousand interleavings of clients; INTERLEAVINGS_SEED=N repeats a run
	INTERLEAVINGS=$${INTERLEAVINGS:-100000} cargo test --lib --config profile.test.package.chancery.opt-level=1 \
		--config profile.test.package.xxhash-rust.opt-level=3 xds::session::tests::interleavings -- --nocapture

faults: tools ## make mistakes in a copy of the session, one at a time: the search must find each (minutes of compiling)
	tests/faults/run.py

golden: tools ## documents in, Envoy's resources out, compared with files
	cargo test --test golden

it: tools ## in process, against a real etcd
	cargo test --test it

conformance: tools ## every rule of the xDS checklist, against the server over its socket; prints the table
	cargo test --test conformance

e2e: tools ## the server as a process, against a real etcd, a real Envoy and real gRPC clients
	cargo test --test e2e -- --nocapture

bench: tools ## small scenarios of a fleet against the floor, compared with stored ratios; then micro benches
	cargo bench --bench fleet -- check
	cargo bench --bench micro

bench-peers: tools ## other management servers on the same load (needs Go, Java; says what is missing)
	benches/peers/run.sh

deny: .tools/bin/cargo-deny ## licences, advisories and sources of what we depend on
	cargo deny check

tools: ## fetch protoc, etcd, Envoy and gRPC clients into .tools/ (nothing is installed elsewhere)
	.ci/tools.sh

.tools/bin/cargo-deny:
	cargo install --locked --root .tools cargo-deny
