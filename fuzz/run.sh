#!/bin/sh
# Fuzz the named targets (default: all) side by side, FUZZ_SECONDS each (default 600). FUZZ_SEED repeats the choices of
# a run. An input that fails is left in fuzz/crashes/; new inputs that reach new paths go to target/fuzz/corpus/.
set -eu
cd "$(dirname "$0")/.."

# If the C++ parts of gcc were unpacked here (.ci/tools.sh), their library is there, too.
for parts in "$PWD"/.tools/root/usr/lib/gcc/*/*; do
    [ ! -d "$parts" ] || export LIBRARY_PATH="$parts${LIBRARY_PATH:+:$LIBRARY_PATH}"
done

targets=${*:-documents requests services state configuration}
work=${CARGO_TARGET_DIR:-target}/fuzz
seconds=${FUZZ_SECONDS:-600}

RUSTC_WORKSPACE_WRAPPER=$PWD/fuzz/rustc.sh cargo build --workspace --bin chancery-fuzz
mkdir -p fuzz/crashes

# one TARGET: the kept corpus, then new inputs.
one() {
    mkdir -p "$work/corpus/$1"
    set -- "$1" "$work/corpus/$1" "fuzz/corpus/$1"
    if ! FUZZ_TARGET=$1 "${CARGO_TARGET_DIR:-target}/debug/chancery-fuzz" -max_total_time="$seconds" -seed="${FUZZ_SEED:-0}" -max_len=16384 \
        -len_control=20 -timeout=60 -rss_limit_mb=2048 -dict="fuzz/dictionaries/$1" -artifact_prefix="fuzz/crashes/$1-" \
        -print_final_stats=1 "$2" "$3" >"$work/$1.log" 2>&1; then
        tail -n 60 "$work/$1.log"
        echo "fuzz: $1 failed; the input is in fuzz/crashes/, all of the log in $work/$1.log" >&2
        return 1
    fi
    grep -E '^(Done|stat::(number|average|new|peak))' "$work/$1.log" | sed "s/^/$1: /"
}

running=
for target in $targets; do
    one "$target" &
    running="$running $!"
done
failed=0
for process in $running; do
    wait "$process" || failed=1
done
exit "$failed"
