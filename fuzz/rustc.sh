#!/bin/sh
# RUSTC_WORKSPACE_WRAPPER: compiles the crates of this workspace with what libFuzzer sees of their paths (the flags of
# cargo-fuzz, which a stable compiler takes), and some optimisation. Dependencies are those of every other build.
rustc=$1
shift
case "$*" in
    # Run by cargo, without libFuzzer.
    *"--crate-name build_script_"*) exec "$rustc" "$@" ;;
esac
exec "$rustc" "$@" --cfg fuzzing -Copt-level=1 -Ccodegen-units=16 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
