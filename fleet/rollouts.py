"""Rollouts: stored, driven step by step, and told what to do.

What always holds:

- A step's state is on disk before anything of it is wished, and a wish is what is missing between that state and a
  node's newest document: after a kill at any point the next step goes on, and wishes nothing twice.
- Rollouts take their steps one after the other, under one lock, and so do operators' wishes for models and adapters: a
  node is given a release by one rollout at a time, and nobody changes it behind that one's back.
"""

import re
import threading
import time
from collections.abc import Callable

import msgspec
import structlog
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy.exc import IntegrityError

from contract import steering as contract
from contract.release import Kind
from contract.topics import RolloutSummary, Topic
from fleet.api.steering import WishChange, Wished
from fleet.approval import Approves, kind_of
from fleet.database.identities import write_audits
from fleet.database.rollouts import Rollout, find_rollout, list_rollouts, next_number, under_way, write_rollout
from fleet.database.store import Database
from fleet.errors import ConflictError, NotFoundError
from fleet.inventory import Inventory
from fleet.logs import describe
from fleet.measuring import Measuring
from fleet.observing import observe
from fleet.query import parse
from fleet.rolling import make
from fleet.rollout import orders
from fleet.rollout.counts import counts
from fleet.rollout.forecast import forecast
from fleet.rollout.judgement import Seen
from fleet.rollout.plan import Plan, check_plan
from fleet.rollout.state import Phase, State
from fleet.rollout.step import step, unseen
from fleet.rollout.view import view
from fleet.steering import CONTROLLER, Steering

log = structlog.get_logger()

LOOK_S = 0.5  # how soon a step follows on what was heard
CLOCK_S = 10.0  # and how soon on nothing but time
LISTEN_S = 5.0  # after a new connection: what the broker keeps of nodes comes first
REST = 4  # of a large fleet's steps one takes long: so many times as long it rests

Change = Callable[[State], State]


class Rollouts:
    """All rollouts of a fleet. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        inventory: Inventory,
        steering: Steering,
        post: Callable[[Topic, bytes], bool],
        now_ms: Callable[[], int],
        approves: Approves,
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._steering = steering
        self._post = post
        self._now_ms = now_ms
        self._approves = approves
        self._lock = threading.Lock()
        self._measuring = Measuring(database)
        self._is_blind = True  # nobody watched until now
        with database.read() as connection:
            self._under_way = {rollout.number: rollout for rollout in under_way(connection)}
        self._tell()

    # What operators do.

    def forecast(self, plan: Plan) -> tuple[Plan, Seen, list[list[str]]]:
        """Who would get it in which wave: the plan with the id that it would have, what is seen, and the waves.

        Raises:
            UsageError: it cannot be followed.
        """
        check_plan(plan)
        with self._database.read() as connection:
            plan = replace(plan, id=_id(next_number(connection)))
        seen = observe(self._inventory, plan, self._claims(_number(plan.id)), {})
        return plan, seen, forecast(plan, seen, self._now_ms())

    def kind_of(self, release: str) -> Kind:
        """Whether it is a model or an adapter.

        Raises:
            ConflictError: it is not approved, and no node has it.
        """
        return kind_of(release, self._inventory.records(), self._approves)

    def start(self, plan: Plan, actor: str) -> Rollout:
        """Begins a rollout; its id is made here.

        Raises:
            UsageError: it cannot be followed.
            ConflictError: this release is being rolled out to the same nodes already, or is not approved.
        """
        check_plan(plan)
        if (kind := self.kind_of(plan.release)) != plan.kind:
            raise ConflictError(f"cannot roll out {plan.release} as {plan.kind}: it is {kind}; name it as that")
        with self._lock:
            for other in self._under_way.values():
                if (other.plan.release, other.plan.targets) == (plan.release, plan.targets):
                    raise ConflictError(
                        f"cannot roll out {plan.release} to {plan.targets!r}: {other.plan.id} does that already; "
                        f"`fleet rollout status {other.plan.id}` says how far it is"
                    )
            with self._database.read() as connection:
                number = next_number(connection)
            new = Rollout(
                number=number, plan=replace(plan, id=_id(number)), actor=actor, created_ms=self._now_ms()
            )  # fmt: skip
            self._store(None, new, actor, "rollout start", msgspec.json.encode(new.plan).decode())
            self._step(new)
            return self._get(number)

    def order(self, rollout_id: str, change: Change, actor: str, action: str, detail: str = "") -> Rollout:
        """Changes the state of a rollout that is under way (`fleet.rollout.orders`), then takes a step.

        Raises:
            NotFoundError: there is no such rollout.
            ConflictError: it is over, or cannot do that now.
        """
        with self._lock:
            old = self._get(_number(rollout_id))
            state = change(old.state)
            if state != old.state:
                new = replace(old, state=state)
                self._store(old, new, actor, action, detail)
                self._step(new)
            return self._get(old.number)

    def wish(self, nodes: list[str], change: WishChange, actor: str) -> list[Wished]:
        """As `Steering.wish`, but not for models and adapters of nodes that a rollout holds.

        Raises:
            ConflictError: says which rollout holds which node.
        """
        if change.model is UNSET and change.adapters is UNSET:
            return self._steering.wish(nodes, change, actor)
        with self._lock:
            holds = self.holds()
            for node in nodes:
                if rollout := holds.get(node):
                    raise ConflictError(
                        f"cannot set the model or the adapters of {node!r}: rollout {rollout} holds it until it is "
                        f"over; `fleet rollout abort {rollout}` ends it"
                    )
            return self._steering.wish(nodes, change, actor)

    # What is known.

    def get(self, rollout_id: str) -> Rollout:
        """A rollout, with its nodes.

        Raises:
            NotFoundError: there is none.
        """
        return self._get(_number(rollout_id))

    def newest(self, limit: int) -> list[Rollout]:
        """Those begun last, without their nodes, the newest first."""
        with self._database.read() as connection:
            return list_rollouts(connection, limit)

    def holds(self) -> dict[str, str]:
        """By which rollout a node is held: given its release, while it is not over."""
        rollouts = list(self._under_way.values())
        return {node: rollout.plan.id for rollout in rollouts for node in rollout.state.nodes}

    # What goes on by itself.

    def run(self, ended: threading.Event) -> None:
        """Takes steps when something was heard, and by the clock, until `ended`."""
        heard_ms, due_s, sees_s, pause_s = None, 0.0, 0.0, LOOK_S
        while not ended.wait(pause_s):
            now_s, pause_s = time.monotonic(), LOOK_S
            if self._inventory.broker_down_since_ms is not None:
                self._is_blind, sees_s = True, now_s + LISTEN_S
            is_due = now_s >= due_s
            if not self._under_way or now_s < sees_s or not (is_due or heard_ms != self._inventory.heard_ms):
                continue
            heard_ms = self._inventory.heard_ms
            try:
                self.step()
                if is_due:
                    due_s = now_s + CLOCK_S
                    self.publish()
            except Exception as error:  # noqa: BLE001  # they go on when the database is back; what it was is in the log
                log.error("a step of the rollouts failed; trying again", **describe(error))
                pause_s = CLOCK_S
            else:
                pause_s = max(LOOK_S, REST * (time.monotonic() - now_s))

    def step(self) -> None:
        """Takes a step with each rollout."""
        with self._lock:
            for rollout in list(self._under_way.values()):
                self._step(rollout)
            self._is_blind = False

    def publish(self) -> None:
        """Says again how far each is: the broker may be another, or was away."""
        for rollout in list(self._under_way.values()):
            self._publish(rollout)

    # How.

    def _get(self, number: int) -> Rollout:
        found = self._under_way.get(number)
        if found is None:
            with self._database.read() as connection:
                found = find_rollout(connection, number)
        if found is None:
            raise NotFoundError(f"cannot find rollout {_id(number)}: `fleet rollout ls` lists those that there are")
        return found

    def _step(self, old: Rollout) -> None:
        now_ms, plan = self._now_ms(), old.plan
        before = unseen(old.state) if self._is_blind else old.state
        seen = observe(self._inventory, plan, self._claims(old.number), self._measuring.after(plan, before))
        state, wishes = step(plan, before, seen, now_ms)
        if fresh := state.nodes.keys() - before.nodes.keys():
            # Only now it is known who comes next. The same step again, with what they answered until now.
            measured = self._measuring.before(plan, seen, fresh, now_ms)
            seen |= {name: replace(seen[name], metrics=metrics) for name, metrics in measured.items()}
            state, wishes = step(plan, before, seen, now_ms)
        new = replace(old, state=state, ended_ms=now_ms if state.is_over else None)
        if state != old.state:
            new = replace(new, counts=counts(state, len(view(plan, state, seen, now_ms).waiting)))
            action = "" if state.phase is old.state.phase else f"rollout {state.phase.value}"
            self._store(old, new, CONTROLLER, action, _why(state))
        refused = make(self._steering, self._inventory.wishes, plan, wishes)
        if refused is not None and state.phase in (Phase.RUNNING, Phase.PAUSED):  # it was yanked, say
            aborted = replace(new, state=orders.abort(state, refused, reverts=plan.on_abort == "revert"))
            self._store(new, aborted, CONTROLLER, "rollout abort", refused)
            self._step(aborted)

    def _claims(self, number: int) -> dict[str, str]:
        """Which nodes are not for this rollout now: those of others, and those that an older one will come to.

        The older goes first, so that two with the same nodes never wait for each other.
        """
        found: dict[str, str] = {}
        for other in self._under_way.values():
            if other.number < number:
                found |= dict.fromkeys(
                    (one.node for one in self._inventory.find(parse(other.plan.targets))), other.plan.id
                )
            if other.number != number:
                found |= dict.fromkeys(other.state.nodes, other.plan.id)
        return found

    def _store(self, old: Rollout | None, new: Rollout, actor: str, action: str, detail: str) -> None:
        """Writes a rollout, with a line for the audit if there is something to say; then it holds."""
        lines = [(actor, action, new.plan.id, detail)] if action else []
        try:
            with self._database.write() as connection:
                write_rollout(connection, old, new)
                write_audits(connection, self._now_ms(), lines)
        except IntegrityError as error:
            raise ConflictError(
                f"cannot store rollout {new.plan.id}: another controller uses this database; stop one of them"
            ) from error
        if new.state.is_over:
            self._under_way.pop(new.number, None)
            self._measuring.forget(new.plan)
        else:
            self._under_way[new.number] = new
        self._publish(new)
        self._tell()

    def _publish(self, rollout: Rollout) -> None:
        plan, state = rollout.plan, rollout.state
        summary = contract.Rollout(
            plan.id, plan.release, state.phase.value, state.wave + 1, rollout.counts, self._now_ms()
        )
        self._post(RolloutSummary(plan.id), msgspec.json.encode(summary))

    def _tell(self) -> None:
        """The inventory shows them beside the nodes."""
        self._inventory.rollouts = tuple(self._under_way.values())
        self._inventory.announce()


def _id(number: int) -> str:
    return f"r{number}"


def _number(rollout_id: str) -> int:
    """The number in an id; 0, which none has, for what is no rollout's."""
    return int(rollout_id[1:]) if re.fullmatch("r[1-9][0-9]{0,8}", rollout_id) else 0


def _why(state: State) -> str:
    reasons = (state.pause.reason,) if state.pause else state.reasons
    return "; ".join(reasons)
