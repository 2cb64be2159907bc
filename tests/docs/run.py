#!/usr/bin/env python3
"""Run the commands of README.md and of docs/*.md, in this order and each page from top to bottom, against real parts.

Every fenced block whose language is `sh` is run; `console` marks what is shown and not run. One shell runs all of them, so
the etcd, server and Envoy that README.md starts serve the later pages. Three things differ from a reader's shell:

- The network is a namespace with a loopback interface and nothing else, so that the pages' usual ports are free. It needs
  root or user namespaces; without either the usual ports of this machine are used, and must be free.
- The folder is a temporary one with links to everything in the repository, so that `./gateway` and `./state` are new.
  Only `cargo` works in the repository itself, with the features that the Makefile builds with, so that nothing is
  compiled twice.
- `curl` fails on a status of 400 and above, and is tried again for ten seconds: readers type slower than this.

A command that fails ends the run, with its page and line. `tests/docs/run.py FILE...` takes these pages instead.
"""

import glob
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORTS = [2379, 2380, 8080, 8081, 8082, 9901, 10000, 18000, 18001, 50051]
LIMIT_S = 180
ISOLATED = "DOCS_ISOLATED"

PRELUDE = r"""
set -euo pipefail
curl() {
    for _ in $(seq 100); do
        if said=$(command curl -sS --fail-with-body --max-time 5 "$@" 2>&1); then
            # Metrics and snapshots are long.
            printf '%s\n' "${said:0:500}"
            return
        fi
        sleep 0.1
    done
    printf '%s\n' "$said"
    return 1
}
cargo() { (cd "$ROOT" && command cargo "$@" --workspace --bin chancery); }
trap 'printf "\ndocs: %s:%s failed: %s\n" "$page" "$LINENO" "$BASH_COMMAND" >&2' ERR
"""

# Bash drops this trap when it enters a file, so each page sets it.
SHOW = r"""trap 'printf "%s:%s: %s\n" "$page" "$LINENO" "${BASH_COMMAND%%$'"'\n'"'*}"' DEBUG"""


def script(page):
    """The page as a shell script: its `sh` lines, each in the line where the page has it, and blank ones."""
    fence, lines = None, []
    for line in page.read_text().splitlines():
        opening = re.match(r"\s*```(\S*)", line)
        if opening:
            fence = opening[1] if fence is None else None
            lines.append("")
        else:
            lines.append(line if fence == "sh" else "")
    return "\n".join(lines) + "\n"


def taken(port):
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def isolate():
    """Start again in a network namespace of its own; without one, say which port is in the way."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if shutil.which("ip") and subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
        inner = f"ip link set lo up && exec {shlex.join([sys.executable, *sys.argv])}"
        os.execvpe("unshare", [*unshare, "sh", "-c", inner], {**os.environ, ISOLATED: "1"})
    in_the_way = [port for port in PORTS if taken(port)]
    if in_the_way:
        sys.exit(f"docs: no network namespace (it needs root or user namespaces, and ip), and port {in_the_way} is taken")


def lay_out(folder):
    """Links to all that the repository has; the folder of the build is wherever Cargo puts it."""
    for name in os.listdir(ROOT):
        if name not in {"gateway", "state", "out", "target"}:
            (folder / name).symlink_to(ROOT / name)
    (folder / "target").symlink_to(Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve())


def main():
    os.chdir(ROOT)
    # So that what was started ends with this, whoever ends it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if ISOLATED not in os.environ:
        isolate()
    pages = sys.argv[1:] or ["README.md", *sorted(glob.glob("docs/**/*.md", recursive=True))]
    ran = [page for page in pages if script(Path(page)).strip()]
    with tempfile.TemporaryDirectory(prefix="chancery-docs.") as temporary:
        work = Path(temporary)
        (work / "root").mkdir()
        lay_out(work / "root")
        program = PRELUDE
        for page in ran:
            file = work / page.replace("/", "-")
            # A page begins with its title.
            file.write_text(SHOW + script(Path(page)))
            program += f"page={shlex.quote(page)}\nsource {shlex.quote(str(file))}\n"
        # `mktemp -d` in a page makes a folder that goes with this one.
        environment = {**os.environ, "ROOT": str(ROOT), "TMPDIR": temporary}
        shell = subprocess.Popen(["bash", "-c", program], cwd=work / "root", env=environment, start_new_session=True)
        try:
            code = shell.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"docs: not done after {LIMIT_S} s: the last line above is the command", file=sys.stderr)
            code = 1
        finally:
            # The session holds all that was started behind `&`; the folder goes when they have ended.
            for end in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(shell.pid, end)
                except ProcessLookupError:
                    break
                wait_for_group(shell.pid)
    if code != 0:
        sys.exit(1)
    print(f"docs: passed: {', '.join(ran)}")


def wait_for_group(group, seconds=5):
    """Wait until no process of a group is left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main()
