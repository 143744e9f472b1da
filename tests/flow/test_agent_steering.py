"""The agent's steering part over a link that drops, repeats, reorders, delays and goes dead, and killed at every write.

Documents, steering and rules are the real ones; link, clock, store and machine are played, in virtual time.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.json import encode

from agent.desired import Activate, Change, Present, Running, Step
from agent.documents import Documents
from agent.errors import AgentError
from agent.steering import POLICY_WAIT_S, Steering
from contract.deadlines import CLOCK_FLOOR_MS
from contract.presence import report_mark
from contract.signed import Time, Trust, key_id, sign
from contract.steering import HEARTBEAT_JITTER, HEARTBEAT_S, Desired, Policy, Reported
from tests.fakes.memory_facts import Killed, MemoryFacts
from tests.fakes.virtual_time import play

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes_raw()
CONFIGURED: dict[str, Any] = {"limits.queue": 64, "limits.client_queue": 64}
HEAL_S = 10.0 * HEARTBEAT_S
GROUPS = ["east", "west"]


class Machine:
    """What a daemon does: settings and a model, lost at its end. Steps take time, and fail as often as is said."""

    def __init__(self, facts: MemoryFacts, random: Random, say: Callable[[Reported], None]) -> None:
        self.random = random
        self.num_failing = 0
        self.refused: list[str] = []
        self.changed: list[dict[str, Any]] = []
        self.groups: list[str] = []
        loop = asyncio.get_running_loop()

        def now_ms() -> int:
            return round(loop.time() * 1000)

        async def learn_signed(issued_ms: int) -> None:
            await facts.put("clock_ms", str(issued_ms))

        self.documents = Documents(
            "n1",
            facts,
            trust=lambda: Trust({key_id(PUBLIC): PUBLIC}),
            time=lambda: Time(CLOCK_FLOOR_MS + now_ms()),
            learn_signed=learn_signed,
            on_refused=lambda data: self.refused.append(data["event"]),
        )
        self.steering = Steering(
            self.documents,
            facts,
            present=lambda: Present(
                models={"m@1": "aa", "m@2": "bb"}, adapters={}, configured_model="m@1", configured_settings=CONFIGURED
            ),
            running=lambda: self.running,
            apply=self.apply,
            on_good=lambda _: None,
            say=say,
            on_groups=lambda groups: setattr(self, "groups", groups),
            on_settings=self.changed.append,
            now_ms=now_ms,
        )
        good = self.steering.last_good
        self.running = Running(model=good.model or "m@1", adapters=[], settings=CONFIGURED | good.settings)
        self.groups = self.documents.groups
        self.task = asyncio.create_task(self.steering.run())

    async def apply(self, step: Step) -> None:
        """Does a step."""
        await asyncio.sleep(self.random.uniform(0, 3))
        if self.num_failing:
            self.num_failing -= 1
            raise AgentError("cannot do it")
        match step:
            case Change(name=name, value=value):
                settings = self.running.settings | {name: value}
                self.running = Running(model=self.running.model, adapters=[], settings=settings)
            case Activate(model=model):
                self.running = Running(model=model, adapters=[], settings=self.running.settings)

    async def stop(self) -> None:
        """Its end, whatever it was doing."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Controller:
    """Publishes wishes and policies, and again to a node that has not heard of them."""

    def __init__(self, send: Callable[[bytes, str | None], None]) -> None:
        self.send = send
        self.desired: Desired | None = None
        self.policies: dict[str, Policy] = {}
        self.heard: Reported | None = None

    def wish(self, **fields: Any) -> None:
        """The next revision."""
        rev = self.desired.rev + 1 if self.desired else 1
        self.desired = Desired(node="n1", rev=rev, issued=CLOCK_FLOOR_MS, exp=2 * CLOCK_FLOOR_MS, **fields)
        self.publish(None)

    def set_policy(self, group: str, **settings: Any) -> None:
        """The next revision of a group's policy."""
        rev = self.policies[group].rev + 1 if group in self.policies else 1
        self.policies[group] = Policy(
            group=group, rev=rev, issued=CLOCK_FLOOR_MS, exp=2 * CLOCK_FLOOR_MS, settings=settings
        )
        self.publish(group)

    def publish(self, group: str | None) -> None:
        """Sends a document (again)."""
        document = self.desired if group is None else self.policies.get(group)
        if document is not None:
            self.send(sign(document, [KEY]), group)

    def hear(self, report: Reported) -> None:
        """The node says where it is."""
        self.heard = report
        if self.desired is None:
            return
        if report.rev < self.desired.rev:
            self.publish(None)
        for group in self.desired.groups:
            if report.policies.get(group, 0) < self.policies[group].rev:
                self.publish(group)

    def hear_beat(self, mark: str) -> None:
        """The node is there, and this was its last report."""
        if self.heard is None or report_mark(encode(self.heard)) != mark:
            self.publish(None)
        else:
            self.hear(self.heard)

    @property
    def settings(self) -> dict[str, Any]:
        """What the node must have in the end."""
        assert self.desired is not None
        merged = dict(CONFIGURED)
        for group in sorted(self.desired.groups):
            merged |= self.policies[group].settings
        return merged | self.desired.settings


class Link:
    """Loses a third, repeats a fifth, delays by up to half a minute, is dead in one direction now and then."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def carry(self, direction: int, arrive: Callable[[], None]) -> None:
        """A message sets out."""
        loop = asyncio.get_running_loop()
        if loop.time() >= HEAL_S:
            loop.call_later(self.random.uniform(0, 0.5), arrive)
            return
        is_dead = (int(loop.time()) // 45 + direction) % 4 == 0
        for _ in range(0 if is_dead or self.random.random() < 0.33 else self.random.choice([1, 1, 1, 1, 2])):
            loop.call_later(self.random.uniform(0, 30), arrive)


async def run(seed: int) -> tuple[Controller, Machine]:
    """Ten heartbeats of trouble, with kills, then two of a link that is well."""
    random, facts = Random(seed), MemoryFacts()
    link, loop = Link(random), asyncio.get_running_loop()
    work: set[asyncio.Task[None]] = set()

    def deliver(data: bytes, group: str | None) -> None:
        def arrive() -> None:
            if group is None or group in machine.groups:  # the broker sends what is subscribed to
                work.add(loop.create_task(machine.steering.take(data, group)))

        link.carry(0, arrive)

    controller = Controller(deliver)

    mark = ""

    def say(report: Reported) -> None:
        nonlocal mark
        mark = report_mark(encode(report))
        link.carry(1, lambda: controller.hear(report))

    def say_so() -> None:
        said = mark
        link.carry(1, lambda: controller.hear_beat(said))

    for group in GROUPS:
        controller.set_policy(group, **{"limits.queue": random.randint(1, 9)})
    machine = Machine(facts, random, say)
    happenings: list[tuple[float, str]] = [
        *((random.uniform(0, random.choice([60, HEAL_S])), "wish") for _ in range(random.randint(2, 5))),
        *((random.uniform(0, HEAL_S), "policy") for _ in range(random.randint(0, 3))),
        *((random.uniform(0, HEAL_S), "fail") for _ in range(random.randint(0, 2))),
        *((random.uniform(0, HEAL_S), "kill") for _ in range(random.randint(0, 3))),
    ]
    beat, end_s = 0.0, HEAL_S + 2 * HEARTBEAT_S * (1 + HEARTBEAT_JITTER)
    while beat < end_s:
        happenings.append((beat, "heartbeat"))
        beat += HEARTBEAT_S * random.uniform(1 - HEARTBEAT_JITTER, 1 + HEARTBEAT_JITTER)
    for at_s, what in sorted(happenings):
        await asyncio.sleep(max(0.0, at_s - loop.time()))
        match what:
            case "wish":
                groups = random.sample(GROUPS, random.randint(0, 2))
                settings = {"limits.client_queue": random.randint(1, 9)} if random.random() < 0.7 else {}
                controller.wish(groups=groups, model=random.choice([None, "m@1", "m@2"]), settings=settings)
            case "policy":
                controller.set_policy(random.choice(GROUPS), **{"limits.queue": random.randint(1, 9)})
            case "fail":
                machine.num_failing = 1
            case "kill":
                await machine.stop()
                machine = Machine(facts, random, say)
            case "heartbeat":
                if machine.steering.has_news:
                    machine.steering.report()
                else:
                    say_so()
    await asyncio.sleep(max(0.0, end_s - loop.time()))
    await machine.stop()
    return controller, machine


@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_reported_equals_desired_two_heartbeats_after_the_link_is_well(first: int) -> None:
    """Or the report says that the node could not; it is over in any case, and what it says is what it is."""
    for seed in range(first, first + 100):
        controller, machine = play(run(seed))
        assert controller.desired is not None
        heard = controller.heard
        assert heard is not None
        assert (heard.active, heard.settings) == (machine.running.model, machine.running.settings), seed
        assert heard.rev == controller.desired.rev, seed
        assert heard.within_ms is None, seed
        if heard.phase == "confirmed":
            assert heard.settings == controller.settings, seed
            assert heard.active == (controller.desired.model or "m@1"), seed
            assert heard.policies == {g: controller.policies[g].rev for g in controller.desired.groups}, seed
        else:
            assert heard.phase in ("rolled_back", "failed"), seed
            assert heard.error, seed
        assert "document_forged" not in machine.refused, seed


def test_the_trouble_is_real() -> None:
    """Most runs end well, some wishes fail and are undone, and old documents come late."""
    ends = [play(run(seed)) for seed in range(60)]
    phases = [controller.heard.phase for controller, _ in ends if controller.heard]
    assert 40 <= phases.count("confirmed") < 60
    assert "rolled_back" in phases
    assert any("document_outdated" in machine.refused for _, machine in ends)


@pytest.mark.parametrize("kill_after", [False, True], ids=["before a write", "after a write"])
def test_killed_at_every_write_it_converges_after_the_next_start(kill_after: bool) -> None:
    """No write is the one too many: the next start goes on, and no revision ever goes down."""

    async def follow(facts: MemoryFacts) -> None:
        machine = Machine(facts, Random(1), lambda _: None)
        controller = Controller(lambda data, group: documents.append((data, group)))
        documents: list[tuple[bytes, str | None]] = []
        controller.wish(groups=["east"], model="m@2", settings={"limits.client_queue": 3})
        controller.set_policy("east", **{"limits.queue": 5})
        try:
            for data, group in documents:
                await machine.steering.take(data, group)
            await asyncio.wait([machine.task], timeout=POLICY_WAIT_S + 60)
            if machine.task.done():
                machine.task.result()
        finally:
            await machine.stop()
        described = machine.steering.describe()
        assert (described["rev"], described["phase"]) == (1, "confirmed")
        assert machine.running == Running(
            model="m@2", adapters=[], settings={"limits.queue": 5, "limits.client_queue": 3}
        )

    clean = MemoryFacts()
    play(follow(clean))
    assert clean.num_writes > 5
    for number in range(1, clean.num_writes + 1):
        facts = MemoryFacts()
        facts.kill_at, facts.kill_after = number, kill_after
        with pytest.raises(Killed):
            play(follow(facts))
        play(follow(facts))


def test_a_policy_that_never_comes_does_not_hold_up_the_wish() -> None:
    """After a while it is followed without; the policy counts when it comes."""

    async def scene() -> None:
        machine = Machine(MemoryFacts(), Random(1), lambda _: None)
        controller = Controller(lambda data, group: documents.append((data, group)))
        documents: list[tuple[bytes, str | None]] = []
        controller.wish(groups=["east"], settings={"limits.client_queue": 3})
        controller.set_policy("east", **{"limits.queue": 5})
        await machine.steering.take(*documents[0])
        await asyncio.sleep(POLICY_WAIT_S / 2)
        assert machine.running.settings == CONFIGURED
        await asyncio.sleep(POLICY_WAIT_S)
        assert machine.running.settings == CONFIGURED | {"limits.client_queue": 3}
        await machine.steering.take(*documents[1])
        await asyncio.sleep(10)
        assert machine.running.settings == {"limits.queue": 5, "limits.client_queue": 3}
        assert [entry["changed"] for entry in machine.changed] == [{"limits.client_queue": 3}, {"limits.queue": 5}]
        await machine.stop()

    play(scene())


def test_a_newer_wish_ends_a_step_that_takes_long() -> None:
    """It is not waited for."""

    async def scene() -> None:
        machine = Machine(MemoryFacts(), Random(1), lambda _: None)
        stuck = asyncio.Event()

        async def hang(_: Step) -> None:
            stuck.set()
            await asyncio.sleep(10_000)

        apply, machine.steering._apply = machine.steering._apply, hang
        documents: list[tuple[bytes, str | None]] = []
        controller = Controller(lambda data, group: documents.append((data, group)))
        controller.wish(model="m@2")
        controller.wish(settings={"limits.queue": 2})
        await machine.steering.take(*documents[0])
        await stuck.wait()
        machine.steering._apply = apply
        await machine.steering.take(*documents[1])
        await asyncio.sleep(20)
        assert asyncio.get_running_loop().time() < 100
        assert (machine.steering.describe()["phase"], machine.running.settings["limits.queue"]) == ("confirmed", 2)
        await machine.stop()

    play(scene())
