"""A switch of the default model under load: what fails, and how long requests wait more than before.

Two requests a second come while a release that is already on the node's disk is tried and let serve. The pause is the
longest wait for a first token of a request that came while models were exchanged, or in the seconds after, above the
median of those that came before the update.
"""

import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from agent.models import DEFAULT_FILE
from agent.weights.gguf import parse
from bench.report import Report
from contract.release import Release
from fleet.releases.objects import Objects
from tests.fakes.client import IotClient
from tests.fakes.folder_depot import publish
from tests.fakes.helm import Helm
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess
from tests.fakes.releases import make_release

RATE_PER_S = 2.0
BEFORE_S, AFTER_S = 10.0, 5.0
ANSWER_TOKENS = 4  # short: two a second are what a small node bears, beside a trial
UPDATE_S = 900.0
TTL_MS = 60_000


class Asked(NamedTuple):
    """A request: when it went out, what came of it, and how long its first token took."""

    at: float
    status: int
    first_token_ms: float | None


class Load:
    """Requests that come whatever becomes of those before them."""

    def __init__(self, client: IotClient) -> None:
        self._client = client
        self._ended = threading.Event()
        self._sent: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> list[Asked]:
        """Ends it, and waits for the answers."""
        self._ended.set()
        self._thread.join()
        return [self._answer(name, at) for name, at in self._sent.items()]

    def _run(self) -> None:
        while not self._ended.wait(1 / RATE_PER_S):
            name = f"load{len(self._sent)}"
            self._sent[name] = time.monotonic()
            self._client.ask(
                {"id": name, "prompt": "What is the capital of France?", "max_tokens": ANSWER_TOKENS, "ttl_ms": TTL_MS}
            )

    def _answer(self, name: str, at: float) -> Asked:
        final: dict[str, Any] = self._client.final(name)
        return Asked(at, final["status"], final.get("timings", {}).get("first_token_ms"))


def measure(report: Report, *, quick: bool) -> None:
    """Adds the rows."""
    model = Path(f".shoal/models/{DEFAULT_FILE}").resolve()
    failed, pauses = [], []
    for _ in range(1 if quick else 5):
        with tempfile.TemporaryDirectory() as folder:
            asked, begin, end = _switch(model, Path(folder))
        before = [one.first_token_ms for one in asked if one.at < begin and one.first_token_ms is not None]
        during = [one for one in asked if begin <= one.at <= end + AFTER_S]
        failed.append(float(sum(one.status != 200 for one in asked)))  # the status of the contract
        print(f"answers by status: {dict(Counter(one.status for one in asked))}", flush=True)
        waits = [one.first_token_ms for one in during if one.status == 200 and one.first_token_ms is not None]
        pauses.append(max(0.0, max(waits, default=float(TTL_MS)) - statistics.median(before)))
    report.add("switch_failed", "requests that failed while models were exchanged", "", failed, 0)
    report.add("switch_pause_ms", "the longest wait more than before, at 2 requests a second", "ms", pauses, 200)


def _switch(model: Path, folder: Path) -> tuple[list[Asked], float, float]:
    """What was asked, and when the exchange began and ended."""
    broker = Mosquitto(folder).start()
    agent = AgentProcess(folder, broker.port, model)
    agent.depot = folder / "depot"
    client = IotClient(broker.port)
    helm = Helm(agent, client)
    try:
        _publish(model, folder)
        agent.start().wait_online(client)
        agent.wait_engine()
        load = Load(client)
        time.sleep(BEFORE_S)
        helm.wish(1, model="m@2")
        begin = _reported(client, "switching")
        end = _reported(client, "confirmed")
        time.sleep(AFTER_S)
        return load.end(), begin, end
    finally:
        client.close()
        agent.stop()
        broker.stop()


def _reported(client: IotClient, phase: str) -> float:
    """When the node says that it has come so far with the wish."""
    said = client.wait(
        lambda m: bool(m.topic.endswith("/reported") and m.json["rev"] == 1 and m.json["phase"] == phase),
        timeout_s=UPDATE_S,
    )
    return said.at


def _publish(model: Path, folder: Path) -> Release:
    """The same model under another name of its own, so that it is another file."""
    content = bytearray(model.read_bytes())
    _, end = parse(bytes(content)).spans["general.name"]
    content[end - 1] ^= 1
    file = folder / "new.gguf"
    file.write_bytes(content)
    release = make_release(file, Objects(folder / "objects"), name="m", version="2", min_speed=0.1)
    publish(folder / "depot", release, file)
    return release
