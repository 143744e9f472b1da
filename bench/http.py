"""The controller's HTTPS port while strangers hold connections to it: how long a healthy request takes."""

import tempfile
import time
from pathlib import Path

import httpx

from bench.report import RUNS, Report
from tests.fakes.controller import ControllerProcess
from tests.fakes.strangers import NUM_IDLE, NUM_SLOW, Strangers

REQUESTS = 20


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    with tempfile.TemporaryDirectory() as place:
        controller = ControllerProcess(Path(place)).ready()
        try:
            alone = _request_s(controller, REQUESTS)
            beside = []
            for _ in range(1 if quick else RUNS):
                with Strangers(controller) as strangers:
                    took = _request_s(controller, REQUESTS)
                    if not strangers.all_stand:
                        raise RuntimeError("cannot measure: the strangers were gone before the last answer")
                beside += took
        finally:
            controller.stop()
    who = f"{NUM_IDLE} connections that say nothing and {NUM_SLOW} that never end a request"
    report.add("http_alone_s", "a request over a new connection, nobody else there", "s", alone)
    report.add("http_beside_slow_s", f"the same beside {who}; the slowest", "s", [max(beside)], 1.0)


def _request_s(controller: ControllerProcess, count: int) -> list[float]:
    """Seconds of requests, each with a handshake of its own."""
    context, took = controller.tls(), []
    for _ in range(count):
        started = time.perf_counter()
        httpx.get(f"{controller.folder.url}/healthz", verify=context, timeout=30).raise_for_status()
        took.append(time.perf_counter() - started)
    return took
