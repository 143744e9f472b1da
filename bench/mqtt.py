"""What MQTT, journal and process boundary add to the engine's own time, from a published prompt to its first delta.

Real mosquitto on loopback, a real agent, one client. For each request the engine's own time (job arrived →
first token chosen, by the engine's clock) is taken off what the client saw; the bare engine, spoken to over its socket
without daemon or broker, stands beside it.
"""

import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path

from agent.engine import frames
from agent.engine.supervisor import Plan, Supervisor
from agent.models import DEFAULT_FILE
from bench.report import RUNS, Report, percentile
from tests.fakes.client import IotClient
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.node import AgentProcess

PROMPT = "Say yes."
MODEL = Path(".shoal/models") / DEFAULT_FILE


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    requests = 12 if quick else 100
    with tempfile.TemporaryDirectory() as folder:
        bare = asyncio.run(_bare(requests))
        seen, added = _over_mqtt(Path(folder), requests)
    report.add("bare_first_token_ms_p50", "engine alone, first token, p50", "ms", [percentile(r, 0.5) for r in bare])
    report.add("first_delta_ms_p50", "prompt published to first delta, p50", "ms", [percentile(r, 0.5) for r in seen])
    report.add(
        "first_delta_added_ms_p50",
        "added to the engine's own time, p50",
        "ms",
        [percentile(r, 0.5) for r in added],
        3.0,
    )
    report.add(
        "first_delta_added_ms_p99",
        "added to the engine's own time, p99",
        "ms",
        [percentile(r, 0.99) for r in added],
        10.0,
    )


def _over_mqtt(folder: Path, requests: int) -> tuple[list[list[float]], list[list[float]]]:
    """For each run the times that a client saw, and what of them was not the engine's, in ms."""
    broker = Mosquitto(folder).start()
    agent = AgentProcess(folder, broker.port, MODEL.resolve()).start()
    client = IotClient(broker.port)
    try:
        agent.wait_online(client)
        _one(client)
        rounds = [[_one(client) for _ in range(requests)] for _ in range(RUNS)]
    finally:
        client.close()
        agent.stop()
        broker.stop()
    lines = (json.loads(line) for line in agent.logs().splitlines())
    own = {line["id"]: line["engine_first_token_ms"] for line in lines if line["event"] == "answered"}
    seen = [[ms for _, ms in one_round] for one_round in rounds]
    return seen, [[ms - own[request_id] for request_id, ms in one_round] for one_round in rounds]


def _one(client: IotClient) -> tuple[str, float]:
    """One streamed request: its id, and ms from publishing to the first piece of text."""
    request_id = uuid.uuid4().hex
    client.seen.clear()
    started = time.monotonic()
    client.ask({"id": request_id, "prompt": PROMPT, "stream": True, "max_tokens": 4, "temperature": 0})
    first = client.wait(lambda m: m.topic.endswith("/delta") and m.json["seq"] == 1)
    client.final(request_id)
    return request_id, (first.at - started) * 1000


async def _bare(requests: int) -> list[list[float]]:
    """First-token times of an engine without daemon, in ms."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[None] = loop.create_future()
    done: asyncio.Future[None] = loop.create_future()

    def on_frame(frame: frames.OfJob) -> None:
        if isinstance(frame, frames.Tokens) and not first.done():
            first.set_result(None)
        elif isinstance(frame, frames.Done):
            done.set_result(None)

    plan = Plan(
        file=str(MODEL.resolve()), context_tokens=512, parallel=4, threads=2, start_timeout_s=120, stall_s=60
    )  # as the agent of the comparison has it
    engine = Supervisor(
        plan,
        first_rung=0,
        on_frame=on_frame,
        on_state=lambda _: None,
        on_lost=lambda _: None,
        on_rung=lambda _: None,
    )
    engine.start()
    await engine.wait_ready()
    rounds = []
    for _ in range(RUNS):
        times = []
        for number in range(requests):
            first, done = loop.create_future(), loop.create_future()
            started = time.monotonic()
            engine.send(
                frames.Generate(
                    job=number,
                    turns=[("user", PROMPT)],
                    sampling=frames.Sampling(temperature=0, top_p=1, top_k=0),
                    max_tokens=4,
                    deadline_ms=60_000,
                )
            )
            await first
            times.append((time.monotonic() - started) * 1000)
            await done
        rounds.append(times)
    await engine.stop()
    return rounds
