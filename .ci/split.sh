#!/bin/sh
# split.sh BINARY FOLDER: puts a stripped copy of BINARY into FOLDER, and its debug information beside that as BINARY.debug.
# Debuggers and `perf` find the second by the first, as long as both lie in one folder.
set -eu

binary=$1
folder=$2
name=$(basename "$binary")

for tool in objcopy strip; do
    command -v $tool >/dev/null || { echo "split: $tool is missing: it comes with the C linker (package binutils)." >&2; exit 1; }
done

mkdir -p "$folder"
objcopy --only-keep-debug "$binary" "$folder/$name.debug"
chmod -x "$folder/$name.debug"
strip -o "$folder/$name" "$binary"
(cd "$folder" && objcopy --add-gnu-debuglink="$name.debug" "$name")
