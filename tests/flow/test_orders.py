"""Commands over a link that repeats, delays and reorders, to an agent that dies now and then: a thousand seeded runs.

The rules are the real ones (`agent.orders`); link, table and operations are played, in virtual time.
"""

import asyncio
from collections import Counter
from random import Random
from typing import Any

import msgspec
import pytest

from agent.errors import AgentError
from agent.events import Events
from agent.incoming import Incoming
from agent.orders import Operation, Orders
from agent.post import Post
from agent.store.outbox import Letter
from contract.deadlines import CLOCK_FLOOR_MS
from contract.mqtt5 import Properties
from contract.steering import Command, Event
from tests.fakes.memory_commands import MemoryCommands
from tests.fakes.virtual_time import play

END_S = 400.0
PROMPT_MS = 200  # after its deadline an answer is there at once


class Args(msgspec.Struct, forbid_unknown_fields=True):
    """How long the operation takes, and whether it works."""

    takes_s: float = 0.0
    fails: bool = False


class Mailbox(Post):
    """Passes for `Post`: keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Letter] = []

    def send(self, key: int, letter: Letter) -> None:
        """Sends a letter that was stored."""
        self.sent.append(letter)

    async def write(self, letter: Letter) -> None:
        """Sends a letter again."""
        self.sent.append(letter)


class Node:
    """An agent, as far as commands are concerned, from its start to its end."""

    def __init__(self, commands: MemoryCommands, runs: Counter[str]) -> None:
        self.post = Mailbox()
        self.tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()

        def now_ms() -> int:
            return CLOCK_FLOOR_MS + round(loop.time() * 1000)

        async def work(args: Args, _: int) -> dict[str, Any]:
            runs["work"] += 1
            await asyncio.sleep(args.takes_s)
            if args.fails:
                raise AgentError("cannot do it")
            return {}

        events = Events("n1", "home", self.post, now_ms=now_ms, background=self.run)
        operations = {"work": Operation(Args, work)}
        self.orders = Orders(commands, operations, events=events, post=self.post, now_ms=now_ms)
        self.run(self.orders.answer_the_cut_off())

    def run(self, work: Any) -> None:
        """Runs something until the end of the agent."""
        self.tasks.add(asyncio.create_task(work))

    def hear(self, command: Command) -> None:
        """A command arrives."""
        data = msgspec.json.encode(command)
        self.run(self.orders.take(Incoming("", data, Properties(), False, False, 1, lambda: None)))

    async def die(self) -> None:
        """Kill -9."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def run(seed: int) -> tuple[list[Command], MemoryCommands, Counter[str], list[Letter]]:
    """Commands that come late, often and out of order, and an agent that is killed in between."""
    random, commands, runs = Random(seed), MemoryCommands(), Counter[str]()
    loop, sent = asyncio.get_running_loop(), list[Letter]()
    given: list[Command] = []
    happenings: list[tuple[float, Command | None]] = [
        (random.uniform(0, 300), None) for _ in range(random.randint(0, 4))
    ]
    for number in range(random.randint(1, 8)):
        at_s = random.uniform(0, 200)
        args: dict[str, Any] = random.choice(
            [{}, {"takes_s": 20.0}, {"takes_s": 500.0}, {"fails": True}, {"colour": "red"}]
        )
        exp_ms = CLOCK_FLOOR_MS + round(1000 * (at_s + random.uniform(1, 90)))
        given.append(Command(f"c{number}", random.choice(["work", "work", "work", "dance"]), args, exp_ms))
        happenings += [(at_s + random.uniform(0, 60), given[-1]) for _ in range(random.randint(1, 3))]
    node = Node(commands, runs)
    for when_s, command in sorted(happenings, key=lambda one: one[0]):
        await asyncio.sleep(max(0.0, when_s - loop.time()))
        if command is not None:
            node.hear(command)
        else:
            await node.die()
            sent += node.post.sent
            node = Node(commands, runs)
    await asyncio.sleep(END_S - loop.time())
    await node.die()
    return given, commands, runs, sent + node.post.sent


@pytest.mark.parametrize("first", range(0, 1000, 250))
def test_every_command_runs_once_at_most_and_ends_by_its_deadline(first: int) -> None:
    """With one answer, however often that is sent; only one that the agent died of is answered later, with 500."""
    statuses: Counter[int] = Counter()
    for seed in range(first, first + 250):
        given, commands, runs, sent = play(run(seed))
        assert runs["work"] <= sum(command.op == "work" for command in given), seed
        events = {letter.payload for letter in sent}
        answers = [msgspec.json.decode(payload, type=Event) for payload in events]
        by_id = {answer.data["id"]: answer for answer in answers}
        assert len(by_id) == len(answers) == len(given), seed
        for command in given:
            answer = by_id[command.id]
            statuses[answer.data["status"]] += 1
            assert answer.name == command.op
            late_ms = answer.ts - command.exp
            assert late_ms <= PROMPT_MS or answer.data["status"] == 500 or "it expired" in answer.data["error"], seed
        assert not commands.unanswered()
    assert all(statuses[status] for status in (200, 400, 404, 408, 500))
