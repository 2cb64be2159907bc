#!/usr/bin/env python3
"""Make each mistake of faults.toml in a copy of the crate and demand that the search through interleavings finds it.

Usage: tests/faults/run.py [WORD]    only the faults whose name has the word
The copy and what is built of it stay in target/faults, so that a fault costs one compilation of the crate.
INTERLEAVINGS is how many lives a fault has to be found in; their seed is another each time.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "target" / "faults" / "crate"
TEST = "xds::session::tests::interleavings"
COMMAND = ["cargo", "test", "--lib"]
ENVIRONMENT = os.environ | {
    "INTERLEAVINGS": os.environ.get("INTERLEAVINGS", "20000"),
    "CARGO_TARGET_DIR": str(ROOT / "target" / "faults" / "target"),
    "RUST_BACKTRACE": "0",
}


def copy_crate():
    """The files that git knows or would take, as they are now. What did not change keeps its time, so that cargo sees it."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        source, target = ROOT / name, COPY / name
        if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def run_test(test=TEST):
    """Whether the test found something, and its first words. Anything that is no verdict ends the run."""
    run = subprocess.run([*COMMAND, test], cwd=COPY, env=ENVIRONMENT, capture_output=True, text=True)
    output = run.stdout + run.stderr
    if run.returncode == 0 and "test result: ok. 1 passed" in output:
        return False, ""
    if "test result: FAILED. 0 passed; 1 failed" not in output:
        sys.exit(f"the search did not run:\n{output[-4000:]}")
    words = re.search(r"INTERLEAVINGS_SEED=\d+\n(.+)\nseed ", output)
    return True, words.group(1) if words else "a panic"


def mistaken(fault):
    """The file with the mistake in it. The text that is to be found must stand there exactly once."""
    text = (ROOT / fault["file"]).read_text()
    count = text.count(fault["find"])
    if count != 1:
        sys.exit(f"{fault['file']} has {fault['find']!r} {count} times, expected 1: mend tests/faults/faults.toml")
    return text.replace(fault["find"], fault["replace"]) + fault.get("append", "")


def main():
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    faults = tomllib.loads((ROOT / "tests/faults/faults.toml").read_text())["fault"]
    faults = [fault for fault in faults if word in fault["name"]]
    texts = [mistaken(fault) for fault in faults]
    copy_crate()
    found, words = run_test()
    if found:
        sys.exit(f"the search fails without any fault: {words}")
    missed = 0
    for fault, text in zip(faults, texts):
        file = COPY / fault["file"]
        file.write_text(text)
        found, words = run_test(fault.get("test", TEST))
        shutil.copyfile(ROOT / fault["file"], file)
        missed += not found
        print(f"{'found ' if found else 'MISSED'}  {fault['name']}: {words}", flush=True)
    print(f"{len(faults) - missed} of {len(faults)} faults found")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
