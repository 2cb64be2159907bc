"""A gRPC client without a proxy, for the end-to-end tests: grpcio resolves the target by xDS, and calls it.

    GRPC_XDS_BOOTSTRAP=bootstrap.json python client.py xds:///echo

On standard input, one JSON object a line:
    {"call": "/echo.Echo/Say", "headers": {"x-env": "canary"}, "id": 7}    one call
    {"every_ms": 20, "call": "/echo.Echo/Say"}                             calls at this distance from now on; 0: no more
On standard output, one a call, in the order in which they end:
    {"id": 7, "ok": true, "by": "blue"}, {"id": null, "ok": false, "why": "UNAVAILABLE: ..."}
Calls at a distance have no id. The end of standard input ends the program.
"""

import json
import sys
import threading
import time

import grpc

DEADLINE_S = 10

# A lost upstream is tried again soon, so that tests of failover need not wait.
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

channel = grpc.insecure_channel(sys.argv[1], options=OPTIONS)
output = threading.Lock()


def report(call_id, future):
    error = future.exception()
    if error is None:
        answer = {"id": call_id, "ok": True, "by": future.result().decode()}
    else:
        answer = {"id": call_id, "ok": False, "why": f"{error.code().name}: {error.details()}"}
    with output:
        print(json.dumps(answer), flush=True)


def call(method, headers, call_id):
    # Without serializers a message is bytes.
    stub = channel.unary_unary(method)
    future = stub.future(b"", metadata=list(headers.items()), timeout=DEADLINE_S)
    future.add_done_callback(lambda done: report(call_id, done))


class Calls(threading.Thread):
    """Calls at a distance, until another takes its place."""

    def __init__(self, method, distance_s):
        super().__init__(daemon=True)
        self.method, self.distance_s, self.over = method, distance_s, threading.Event()

    def run(self):
        due = time.monotonic()
        while not self.over.is_set():
            call(self.method, {}, None)
            due += self.distance_s
            self.over.wait(max(0.0, due - time.monotonic()))


calls = None
for line in sys.stdin:
    command = json.loads(line)
    if "every_ms" not in command:
        call(command["call"], command.get("headers", {}), command["id"])
        continue
    if calls is not None:
        calls.over.set()
        calls.join()
        calls = None
    if command["every_ms"] > 0:
        calls = Calls(command["call"], command["every_ms"] / 1000)
        calls.start()
