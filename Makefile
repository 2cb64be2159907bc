# The index of commands. Each recipe is a line that can be typed by hand once .tools/bin is on the PATH.

export PATH := $(CURDIR)/.tools/bin:$(PATH)

# What a recipe needs of .tools/, and no more.
need = .ci/tools.sh
# The features that all members of the workspace need together: with those of one member alone, each recipe of another
# member would compile the dependencies again.
all = --workspace

.PHONY: help build demo test lint doc unit property faults golden differential fuzz-envoy it conformance hostile fuzz \
	e2e chaos docs fresh fresh-debian bench bench-peers deny deny-offline tools
.DEFAULT_GOAL := help

help: ## show this
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

build: ## build the release binary, stripped, out/chancery, and its debug information, out/chancery.debug
	$(need) protoc
	cargo build --profile dist
	.ci/split.sh "$${CARGO_TARGET_DIR:-target}/dist/chancery" out

demo: ## etcd, the server, two upstreams and a real Envoy on free ports; KEEP=1 keeps them running
	$(need) protoc etcd envoy
	cargo build $(all) --bin chancery
	KEEP=$(KEEP) envoy-config/demo/run.sh

test: lint doc unit property golden differential it conformance e2e hostile chaos fuzz docs ## everything: format, lints, unit, search, golden, generated sets (Envoy), integration (etcd), conformance, end to end (Envoy), attacks, chaos, fuzzing, commands of the docs

# The same hundred thousand lives each time, so that a find of the search does not fail a change that has nothing to do with
# it. `make property` alone searches elsewhere each time.
test: export INTERLEAVINGS_SEED ?= 16958538614778031098
# Some of each kind of fault, always the same ones.
test: export CHAOS_SEED ?= 1
test: export CHAOS_FAULTS ?= 20
# A minute each.
test: export FUZZ_SECONDS ?= 60
test: export FUZZ_SEED ?= 1

lint: ## formatting and clippy, warnings denied
	$(need) protoc cxx
	cargo fmt --check
	cargo clippy $(all) --all-targets -- -D warnings

doc: export RUSTDOCFLAGS ?= -D warnings
doc: ## the crate's documentation, warnings denied
	$(need) protoc cxx
	cargo doc $(all) --no-deps --document-private-items

unit: ## tests at the foot of the files
	$(need) protoc
	cargo test $(all) --lib --bin chancery

# The crate itself is optimised for this one: it is compiled a second time (two minutes), and searches three times as fast.
property: ## search a hundred thousand interleavings of clients and ten thousand histories of replicas; *_SEED=N repeats a run
	$(need) protoc
	INTERLEAVINGS=$${INTERLEAVINGS:-100000} cargo test $(all) --lib --config profile.test.package.chancery.opt-level=1 \
		--config profile.test.package.xxhash-rust.opt-level=3 xds::session::tests::interleavings -- --nocapture
	HISTORIES=$${HISTORIES:-10000} cargo test $(all) --lib --config profile.test.package.chancery.opt-level=1 \
		--config profile.test.package.xxhash-rust.opt-level=3 reconcile::plan::tests::replicas

faults: ## make mistakes in a copy of the session, one at a time: the search must find each (minutes of compiling)
	$(need) protoc
	tests/faults/run.py

golden: ## documents in, Envoy's resources out, compared with files
	$(need) protoc envoy
	cargo test $(all) --test golden

it: ## in process, against a real etcd
	$(need) protoc etcd promtool
	cargo test $(all) --test it

conformance: ## every rule of the xDS checklist, against the server over its socket; prints the table
	$(need) protoc etcd
	cargo test $(all) --test conformance

hostile: ## attacks on both ports and the store, with a healthy fleet beside them; prints the figures of each
	$(need) protoc etcd
	cargo test $(all) --test hostile -- --nocapture

fuzz: ## libFuzzer on documents, requests, the xDS port, state files and configuration, side by side, FUZZ_SECONDS each
	$(need) protoc cxx
	fuzz/run.sh

e2e: ## the server as a process, against a real etcd, a real Envoy and real gRPC clients
	$(need)
	cargo test $(all) --test e2e -- --nocapture

differential: ## generated sets of documents, judged here and by a real Envoy over ADS; prints the figures
	$(need) protoc envoy
	cargo test $(all) --test differential -- --nocapture

fuzz-envoy: export DIFFERENTIAL_SEED ?= $(shell date +%s)
fuzz-envoy: export DIFFERENTIAL_SETS ?= 30000
fuzz-envoy: differential ## the same with ten times as many sets, other ones each time; DIFFERENTIAL_SEED=N repeats a run

chaos: ## 500 faults, one after the other, in three etcd members, three replicas and three Envoys under traffic; CHAOS_SEED=N repeats a run
	$(need) protoc etcd envoy
	CHAOS_FAULTS=$${CHAOS_FAULTS:-500} cargo test $(all) --test chaos -- --nocapture

docs: ## the commands of README.md and docs/, one after the other, against real parts
	$(need) protoc etcd envoy grpcio
	cargo build $(all) --bin chancery
	tests/docs/run.py

fresh: ## make demo in a fresh clone with an empty home: what somebody new to this sees
	.ci/fresh.sh

fresh-debian: ## the same in a minimal Debian with the README's prerequisites alone (needs root, debootstrap)
	.ci/fresh.sh debian

bench: ## small scenarios of a fleet against the floor, compared with stored ratios; then micro benches
	$(need) protoc etcd
	cargo bench --bench fleet -- check
	cargo bench --bench micro

bench-peers: ## other management servers on the same load (needs Go, Java; says what is missing)
	$(need)
	benches/peers/run.sh

deny: .tools/bin/cargo-deny ## licences, advisories and sources of what we depend on (advisories come from GitHub)
	cargo deny check

deny-offline: .tools/bin/cargo-deny ## the same without the advisories
	cargo fetch --locked
	cargo deny --offline check bans licenses sources

tools: ## fetch protoc, etcd, Envoy and gRPC clients into .tools/ (nothing is installed elsewhere)
	$(need)

.tools/bin/cargo-deny:
	cargo install --locked --root .tools cargo-deny
