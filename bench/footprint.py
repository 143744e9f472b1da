"""What the daemon costs a device: memory and processor time without its engine, and how soon it serves, and again."""

import os
import signal
import tempfile
import time
from pathlib import Path

import psutil

from agent.models import DEFAULT_FILE
from bench import enrolled
from bench.report import RUNS, Report
from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess

MODEL = Path(".shoal/models") / DEFAULT_FILE
REQUESTS = 20


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    pss, cpu, ready, load, recovery = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        broker = Mosquitto(Path(folder)).start()
        try:
            for number in range(RUNS):
                own = Path(folder) / f"n{number}"  # with a journal of its own: the same ids would not be run again
                own.mkdir()
                agent = AgentProcess(own, broker.port, MODEL.resolve(), node=f"n{number}")
                client = IotClient(broker.port, node=agent.node)
                started = time.monotonic()
                agent.start()
                agent.wait_online(client)
                ready_s = time.monotonic() - started
                load_s = agent.status()["engine"]["speed"]["load_ms"] / 1000
                for request in range(REQUESTS // 4 if quick else REQUESTS):
                    client.ask({"id": f"r{request}", "prompt": "Say yes.", "max_tokens": 4, "stream": True})
                    client.final(f"r{request}")
                process = psutil.Process(agent.process.pid if agent.process else 0)
                cpu.append(_idle_cpu_percent(process, 4.0 if quick else 20.0))
                pss.append(process.memory_full_info().pss / 2**20)
                ready.append(ready_s - load_s)
                load.append(load_s)
                recovery.append(_recovery_s(agent, client))
                client.close()
                agent.stop()
        finally:
            broker.stop()
    report.add("agent_pss_mib", "daemon's memory after requests (PSS), without engine", "MiB", pss, 64)
    report.add("agent_idle_cpu_percent", "daemon's processor time while idle, of one core", "%", cpu, 0.5)
    report.add("agent_ready_s", "start to online, less loading the model", "s", ready, 1.5)
    report.add("recovery_s", "kill -9 of the engine to the next first token, less loading", "s", recovery, 1.0)
    enrolled.run(report, MODEL.resolve(), _idle_cpu_percent, quick=quick)
    report.add("model_load_s", "loading the model", "s", load)


def _recovery_s(agent: AgentProcess, client: IotClient) -> float:
    """How long a request that comes right after the engine died waits for its first token, loading left out."""
    killed = agent.wait_engine()
    started = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    client.ask({"id": "after", "prompt": "Say yes.", "max_tokens": 4, "stream": True})
    client.wait(lambda m: m.topic.endswith("/rx/after/delta") and m.json["seq"] > 0)
    waited_s = time.monotonic() - started
    status = agent.wait_status(lambda s: s["engine"]["pid"] not in (None, killed) and s["engine"]["speed"], "engine")
    return waited_s - float(status["engine"]["speed"]["load_ms"]) / 1000


def _idle_cpu_percent(process: psutil.Process, window_s: float) -> float:
    before = process.cpu_times()
    time.sleep(window_s)
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / window_s
