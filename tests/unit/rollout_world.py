"""A small fleet on a virtual clock, with nodes that fail, go away, come late and lie, and a controller that dies."""

import random
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from fleet.errors import ConflictError
from fleet.fields import Record
from fleet.rollout import orders
from fleet.rollout.amount import Amount
from fleet.rollout.judgement import crossed
from fleet.rollout.observation import Metrics, Observation
from fleet.rollout.plan import Growth, Plan, Thresholds, check_plan
from fleet.rollout.state import Cause, Outcome, Phase, State
from fleet.rollout.step import Wish, step
from fleet.rollout.window import Window

OLD, NEW = "model@1", "model@2"
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
START_MS = 1_800_000_000_000
KINDS = ("good", "fails", "rejects", "refuses", "mute", "bricks", "crashes", "liar", "forger")
GOOD_RELEASE, BAD_RELEASE = (
    (100, 1, 0, 4, 1, 1, 0, 1, 1),
    (40, 20, 10, 6, 6, 6, 8, 4, 4),
)  # how often nodes are of a kind
NEVER_WELL = ("mute", "bricks", "liar")  # what can keep a rollout waiting for good
ENDS = {"fails": "rolled_back", "rejects": "refused", "refuses": "refused"}


class Report(NamedTuple):
    """What a node says of itself."""

    rev: int
    phase: str
    active: str | None
    is_gated: bool = False


FIRST = Report(1, "confirmed", OLD)


@dataclass
class Device:
    """A node as it really is. `rev` counts the documents made for it, `done_rev` is the last that it was done with."""

    name: str
    kind: str
    board: str
    site: str = "here"
    is_online: bool = True
    wished: str | None = OLD
    active: str | None = OLD
    rev: int = 1
    taken_rev: int = 1
    done_rev: int = 1
    taken: str | None = OLD
    said: Report = FIRST
    heard: Report = FIRST  # what of that has come to the controller
    has_failed: bool = False
    is_dead: bool = False
    held_by: str | None = None
    metrics: Metrics | None = None

    def is_busy(self) -> bool:
        """Whether a document of the controller keeps it from its work, or will, as far as anybody can know."""
        return self.rev > self.done_rev and self.kind != "forger"

    def observe(self) -> Observation:
        """What the controller knows of it."""
        record = Record(
            node=self.name, state="online" if self.is_online else "offline", site=self.site, machine=self.board,
            labels={"board": self.board}, phase=self.heard.phase,
        )  # fmt: skip
        return Observation(
            record=record, wished=self.wished, active=self.heard.active, is_current=self.heard.rev == self.rev,
            is_gated=self.heard.is_gated, held_by=self.held_by, metrics=self.metrics,
        )  # fmt: skip

    def say(self, phase: str, *, is_gated: bool = False) -> None:
        """Reports; the controller will hear of it."""
        self.said = Report(self.taken_rev, phase, self.active, is_gated)

    def live(self, dice: random.Random, now_ms: int) -> None:
        """Goes on by a piece: takes a document, works, ends, reports."""
        if not self.is_online:
            return
        if dice.random() < 0.8:
            self.heard = self.said
        if self.taken_rev < self.rev:
            self.taken_rev, self.taken = self.rev, self.wished
            self.say("checking")
        elif self.done_rev < self.taken_rev and dice.random() < 0.7:
            self._work(dice, now_ms)
        elif self.kind == "crashes" and self.active == NEW and dice.random() < 0.2:
            self.active = OLD
            self.say("rolled_back")

    def _work(self, dice: random.Random, now_ms: int) -> None:
        if self.taken != NEW or self.kind in ("good", "crashes"):
            self.active = self.taken or OLD
            self.done_rev = self.taken_rev
            self.metrics = Metrics(since_ms=now_ms, num_requests=50, num_errors=dice.choice((0, 0, 1)))
            self.say("confirmed")
        elif self.kind == "bricks":
            self.is_online, self.is_dead = False, True
        elif self.kind == "liar":
            self.say("confirmed")  # of a model that it does not have
        elif self.kind == "forger":
            self.said = Report(self.taken_rev, "confirmed", NEW)  # which nobody can tell from the truth
        elif self.kind in ENDS:
            self.done_rev = self.taken_rev
            self.has_failed |= self.kind == "fails"
            self.say(ENDS[self.kind], is_gated=self.kind == "rejects")
        else:
            self.say("fetching")


@dataclass
class World:
    """One schedule. What must hold is asserted on the way."""

    seed: int
    plan: Plan = field(init=False)
    state: State = field(default_factory=State)
    now_ms: int = START_MS
    num_ticks: int = 0
    turned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.dice = dice = random.Random(self.seed)
        self.weights = dice.choice((GOOD_RELEASE, BAD_RELEASE))
        num_devices = dice.randint(20, 60) if dice.random() < 0.03 else dice.randint(1, 12)
        self.devices = {f"n{number}": self._device(f"n{number}") for number in range(num_devices)}
        self.plan = a_plan(dice)
        check_plan(self.plan)

    def _device(self, name: str) -> Device:
        dice = self.dice
        device = Device(name, dice.choices(KINDS, self.weights)[0], dice.choice(("pi4", "pi5", "x86")))
        device.is_online = dice.random() < 0.85
        device.site = "here" if dice.random() < 0.9 else "there"
        return device

    def run(self, num_wild: int = 25, num_calm: int = 400) -> None:
        """A wild time, and then one in which who can come comes, and somebody answers when the rollout asks."""
        for _ in range(num_wild):
            self.disturb()
            self.tick(self.dice.choice((1, 10, 60, 360)) * MINUTE_MS)
            if self.state.is_over:
                return
        for device in self.devices.values():
            device.is_online, device.held_by = not device.is_dead, None
        for _ in range(num_calm):
            self.answer()
            self.tick(4 * HOUR_MS)
            if self.state.is_over or self.waits_for_the_lost():
                return
        raise AssertionError(f"seed {self.seed}: waits for {self.state.wait} in {self.state.phase}")

    def waits_for_the_lost(self) -> bool:
        """Whether all places are held by nodes that never come to an end, and the wait says so by name."""
        wait = self.state.wait
        return (
            wait is not None
            and wait.cause is Cause.AWAY
            and self.now_ms - START_MS > 60 * 24 * HOUR_MS
            and all(self.devices[name].kind in NEVER_WELL for name in wait.names)
        )

    def disturb(self) -> None:
        """Something happens that nobody asked for, or somebody asks for something."""
        dice, devices = self.dice, self.devices
        for device in devices.values():
            if not device.is_dead and dice.random() < 0.12:
                device.is_online = not device.is_online
        if devices and dice.random() < 0.08:
            device = dice.choice(list(devices.values()))
            device.site = "there" if device.site == "here" else "here"
        if dice.random() < 0.05:
            name = f"late{self.num_ticks}"
            devices[name] = self._device(name)
        if len(devices) > 1 and dice.random() < 0.02:
            del devices[dice.choice(list(devices))]
        if dice.random() < 0.05:
            dice.choice(list(devices.values())).held_by = dice.choice(("another", None))
        if dice.random() < 0.05:
            self.order()

    def order(self) -> None:
        """An operator does something, sensible or not; then does it again, which changes nothing."""
        number = self.state.pause.number if self.state.pause else 1
        which = self.dice.choice(("pause", "resume", "approve", "abort", "revert"))
        for _ in range(2):
            before = self.state
            try:
                match which:
                    case "pause":
                        self.state = orders.pause(before, "lunch")
                    case "resume":
                        self.state = orders.resume(before, number)
                    case "approve":
                        self.state = orders.approve(before, before.wave)
                    case _ if self.dice.random() < 0.3:
                        self.state = orders.abort(before, "enough", reverts=which == "revert")
            except ConflictError:
                assert self.state == before

    def answer(self) -> None:
        """Somebody gives the rollout what it asks for."""
        if self.state.pause:
            self.state = orders.resume(self.state, self.state.pause.number)
        elif self.state.wait and self.state.wait.cause is Cause.APPROVAL:
            self.state = orders.approve(self.state, self.state.wave)

    def tick(self, passes_ms: int) -> None:
        """Time passes, nodes go on, the controller takes a step, or dies in the middle of it."""
        self.num_ticks += 1
        self.now_ms += passes_ms
        for device in self.devices.values():
            device.live(self.dice, self.now_ms)
        if self.state.is_over:
            return
        before = msgspec.json.decode(msgspec.json.encode(self.state), type=State)  # the controller may be another
        assert before == self.state
        seen = {name: device.observe() for name, device in self.devices.items()}
        after, wishes = step(self.plan, before, seen, self.now_ms)
        self.check(before, after, wishes, seen)
        fate = self.dice.random()
        if fate < 0.05:
            return  # it died before it stored anything
        self.state = after
        self.turned |= {name for name, node in after.nodes.items() if node.is_back}
        for number, wish in enumerate(wishes):
            if fate < 0.15 and number >= self.dice.randint(0, len(wishes)):
                break  # it died before it made this one
            self.make(wish)
        num_busy = sum(self.devices[name].is_busy() for name, node in after.nodes.items())
        assert num_busy <= self.num_places(), (self.seed, num_busy)

    def make(self, wish: Wish) -> None:
        """A wish becomes a document."""
        device = self.devices[wish.node]
        device.wished, device.rev = wish.release, device.rev + 1

    def num_places(self) -> int:
        """How many may be unavailable; only absolute amounts are used here, so that it never changes."""
        return int(self.plan.max_unavailable.number)

    def check(self, before: State, after: State, wishes: list[Wish], seen: dict[str, Observation]) -> None:
        """What always holds."""
        again, wishes_again = step(self.plan, after, seen, self.now_ms)
        assert again == after, self.seed
        assert wishes_again == ([] if after.is_over else wishes)
        assert len({wish.node for wish in wishes}) == len(wishes)
        for wish in wishes:
            node = after.nodes[wish.node]
            assert wish.release == node.target == (node.before if node.is_back else NEW)
        assert all(after.nodes[name].is_back for name in self.turned & set(after.nodes))
        assert sum(node.outcome is None for node in after.nodes.values()) <= self.num_places()
        assert after.is_over or (after.wait is not None and after.wait.names)
        was_given = {name for name, node in before.nodes.items() if not node.is_back}
        is_given = {name for name, node in after.nodes.items() if not node.is_back}
        nodes = {name: node for name, node in after.nodes.items() if name in was_given}
        if before.phase is Phase.CALLING_BACK or after.phase in (Phase.CALLING_BACK, Phase.ABORTED):
            assert is_given <= was_given
        elif after.phase is Phase.RUNNING:
            assert not crossed(self.plan, self.plan.abort, nodes, seen, self.now_ms) or not nodes
        threshold = self.plan.abort.failed
        if threshold is not None and not threshold.is_percent:
            num_failed = sum(device.has_failed for device in self.devices.values())
            assert num_failed <= threshold.number + self.num_places()
        if after.is_over:
            self.check_end(after)

    def check_end(self, state: State) -> None:
        """A rollout that is over left nobody without saying so."""
        for name, node in state.nodes.items():
            assert node.outcome is not None or name in state.left
            if state.phase is Phase.ABORTED and node.outcome is not Outcome.CONFIRMED:
                assert node.is_back or name in state.left
            if state.phase is Phase.ABORTED and state.reverts:
                assert node.is_back or name in state.left


def a_plan(dice: random.Random) -> Plan:
    """Some plan."""
    waves: tuple[Amount, ...] | Growth = Growth(dice.randint(1, 2), dice.choice((1.5, 2, 4)))
    if dice.random() < 0.7:
        parts = sorted(dice.sample((10, 25, 50, 75), dice.randint(0, 2)))
        waves = (Amount(1), *(Amount(part, is_percent=True) for part in parts), Amount(100, is_percent=True))
    failed = dice.choice((None, Amount(0), Amount(1), Amount(2), Amount(20, is_percent=True)))
    return Plan(
        id=f"r{dice.randint(0, 9)}",
        release=NEW,
        targets="site=here",
        waves=waves,
        stratify_by=dice.choice((None, "machine", "label.board")),
        soak_ms=dice.choice((0, 1, 6)) * HOUR_MS,
        confirmed_percent=dice.choice((0, 50, 90, 100)),
        success=dice.choice((Thresholds(), Thresholds(failed=Amount(0), error_rate=0.01))),
        abort=Thresholds(failed=failed, rejected=dice.choice((None, Amount(1))), crashes=3),
        on_abort=dice.choice(("keep", "revert")),
        approve_before=dice.choice(((), (), (1,), (0, 2))),
        windows=dice.choice(((), (), (Window(start="22:00", end="06:00", zone="Europe/Berlin"),))),
        max_unavailable=Amount(dice.randint(1, 4)),
        overdue_ms=12 * HOUR_MS,
        patience_ms=48 * HOUR_MS,
    )
