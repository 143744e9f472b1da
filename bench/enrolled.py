"""What an agent costs that enrolled with a controller (TLS, steering, telemetry), and what it sends while nobody asks.

Bytes are those of the TCP stream, both ways: payloads, MQTT and TLS, without the headers of TCP and IP. A month is
not waited for: the agent runs with its clockwork (heartbeats, telemetry) `SPEED` times as fast, and what a ping of the
keep-alive takes is measured apart.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from agent.config import Broker
from agent.control import call
from bench.report import RUNS, Report
from contract.presence import NodeState
from contract.topics import NodeStatus
from fleet.link import Link
from tests.fakes.controller import ControllerProcess
from tests.fakes.counting_proxy import CountingProxy
from tests.fakes.enrolled import EnrolledAgent
from tests.fakes.waiting import until

IdleCpu = Callable[[psutil.Process, float], float]

SPEED = 120
MONTH_S = 30 * 24 * 3600
SETTLE_S = 8.0
START_S = 40.0  # early telemetry, events, and what the engine finds out about itself
WINDOW_S = 30.0  # three batches of telemetry and twelve heartbeats, at that speed
PINGS_S = 25.0
FAST = f"""
import sys
from msgspec.structs import replace
import contract.steering as steering, contract.telemetry as telemetry
steering.HEARTBEAT_S /= {SPEED}
pace = telemetry.PACES["normal"]
times = {{name: getattr(pace, name) / {SPEED} for name in ("sample_s", "sys_s", "infer_s")}}
telemetry.PACES["normal"] = replace(pace, **times)
sys.argv = ["agent"]
from agent.__main__ import main
sys.exit(main())
"""


def run(report: Report, model: Path, idle_cpu_percent: IdleCpu, *, quick: bool) -> None:
    """Measures."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        controller = ControllerProcess(place).ready()
        proxy = CountingProxy(controller.folder.port("node"))
        device = EnrolledAgent(place / "device", model)
        try:
            done = device.enroll(controller, controller.token("n1"))
            if done.returncode:
                raise RuntimeError(f"cannot measure: {done.stderr}")
            device.env["SHOAL_BROKER_PORT"] = str(proxy.port)
            with controller.watch() as watch:
                watch.subscribe({NodeStatus("n1").path("home"): 1})
                scene = _Scene(device, watch, proxy)
                _footprint(report, scene, idle_cpu_percent, quick=quick)
                if not quick:  # it takes more than a minute
                    _traffic(report, scene)
        finally:
            device.stop()
            proxy.close()
            controller.stop()


class _Scene:
    """An enrolled agent, whoever hears it, and what counts its bytes."""

    def __init__(self, device: EnrolledAgent, watch: Link, proxy: CountingProxy) -> None:
        self.device, self.proxy = device, proxy
        self._watch = watch
        self._newest = 0

    def start(self, *before: str, keepalive_s: int) -> float:
        """Starts it; seconds until it is online, without loading the model."""
        self.device.env["SHOAL_BROKER_KEEPALIVE_S"] = str(keepalive_s)
        started = time.monotonic()
        self.device.start(*before)
        until(self._is_online, "presence")
        return time.monotonic() - started - float(self.status()["engine"]["speed"]["load_ms"]) / 1000

    def status(self) -> dict[str, Any]:
        """What `shoal-agent status` says."""
        return dict(next(call(self.device.identity.parent, {"op": "status"}, 10.0))["status"])

    def pass_by(self, seconds: float) -> list[int]:
        """Bytes of each piece that is sent in a while, after what a start brings is over."""
        time.sleep(START_S)
        before = len(self.proxy.pieces)
        time.sleep(seconds)
        return self.proxy.pieces[before:]

    def _is_online(self) -> bool:
        incoming = self._watch.next(1.0)
        if incoming is None or not incoming.payload:
            return False
        state = msgspec.json.decode(incoming.payload, type=NodeState)
        if state.s != "online" or state.sess <= self._newest:
            return False
        self._newest = state.sess
        return True


def _footprint(report: Report, scene: _Scene, idle_cpu_percent: IdleCpu, *, quick: bool) -> None:
    pss, cpu, ready = [], [], []
    for _ in range(1 if quick else RUNS):
        ready.append(scene.start(keepalive_s=60))
        process = psutil.Process(scene.status()["pid"])
        time.sleep(SETTLE_S)
        cpu.append(idle_cpu_percent(process, 4.0 if quick else 20.0))
        pss.append(process.memory_full_info().pss / 2**20)
        scene.device.stop()
    report.add("enrolled_pss_mib", "enrolled daemon's memory (PSS), without engine", "MiB", pss, 64)
    report.add("enrolled_idle_cpu_percent", "enrolled daemon's processor time while idle, of one core", "%", cpu, 0.5)
    report.add("enrolled_ready_s", "start to online over TLS, less loading the model", "s", ready, 1.5)


def _traffic(report: Report, scene: _Scene) -> None:
    scene.start(sys.executable, "-c", FAST, keepalive_s=3600)
    said = sum(scene.pass_by(WINDOW_S))
    scene.device.stop()
    scene.start(keepalive_s=5)
    ping = 2 * statistics.median(scene.pass_by(PINGS_S))  # there and back
    scene.device.stop()
    month_mb = (said / (WINDOW_S * SPEED) * MONTH_S + ping * MONTH_S / Broker().keepalive_s) / 1e6
    what = "idle enrolled agent, both ways, with MQTT and TLS, without TCP and IP: heartbeats, telemetry, pings"
    report.add("idle_mb_month", what, "MB", [month_mb], 5)
    report.add("ping_bytes", "of these, a ping of the keep-alive and its answer", "bytes", [ping])
