"""One node as the controller keeps it in memory, and what a message changes in it. Values only: no clock, no database.

There may be ten thousand, so what most of them have in common (names of models, processors, reports) is kept once, and
the card stays the bytes that came: only what can be asked for is read out of it.
"""

from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from contract.presence import Card, NodeState, State
from contract.steering import HEARTBEAT_JITTER, HEARTBEAT_S, Reported
from contract.telemetry import SysRow
from fleet.evidence import SILENCE_S
from fleet.fields import Record
from fleet.rules import DISK_LOW_MIB
from fleet.series import Series

UNKNOWN: Final = "unknown"  # a card and no status
WORST = ("lost", "offline", UNKNOWN, "degraded", "draining")
WELL = len(WORST) + 1  # between them are the online that have a fault
SMALL_BYTES = 2048  # what is larger is not kept to be shared
# Whoever is connected says something at each heartbeat (one may be early and the next late), and whoever was cut off
# tries again after two minutes at most. Who says nothing for so long after the controller has connected is not there.
RETURN_MS = round(1000 * (HEARTBEAT_S * (1 + 2 * HEARTBEAT_JITTER) + 60))
SETTLE_MS = 30_000  # what comes earlier may have waited at the broker: it does not show that the node is there
SILENT_MS = round(1000 * (1.5 * HEARTBEAT_S + SILENCE_S))


class Machine(Struct, frozen=True, gc=False):
    """What a node measured last, and when that came."""

    at_ms: int
    row: SysRow


class Node(Struct, gc=False, kw_only=True):
    """A node. Times are the controller's, ms since 1970; what is not known is None."""

    name: str
    traits: Record  # what its card says of it
    card: bytes = b""
    status: NodeState | None = None
    seen_ms: int | None = None
    spoke_ms: int = 0  # as `seen_ms`, but only of what it said since the controller started
    is_missing: bool = False  # it said nothing after a new connection to the broker, which may have died with it
    reported: Reported | None = None
    reported_ms: int = 0
    report_mark: str = ""
    clock_ahead_ms: int | None = None
    series: dict[str, Series] = {}
    machine: Machine | None = None

    @property
    def presence(self) -> State | None:
        """Whether it is there; None when it never said so."""
        if self.status is None:
            return None
        return "lost" if self.is_missing and self.status.s != "offline" else self.status.s

    @property
    def state(self) -> str:
        """Its presence."""
        return self.presence or UNKNOWN

    @property
    def is_online(self) -> bool:
        """Whether a message would reach it now, as far as the broker knows."""
        return self.state in ("online", "degraded", "draining")

    @property
    def num_gaps(self) -> int:
        """Batches of telemetry that were sent and did not come."""
        return sum(series.num_gaps for series in self.series.values())

    def rank(self, now_ms: int) -> int:
        """Its place among those that are not well, the worst first; `WELL` when nothing shows at a glance."""
        if self.state != "online":
            return WORST.index(self.state)
        row, reported = self.machine.row if self.machine else None, self.reported
        is_unwell = (
            now_ms - (self.seen_ms or 0) > SILENT_MS
            or (row is not None and (row.engine == "broken" or row.models == 0))
            or (row is not None and row.disk_free_mib is not None and row.disk_free_mib < DISK_LOW_MIB)
            or (reported is not None and reported.phase in ("failed", "refused", "rolled_back"))
        )
        return WELL - 1 if is_unwell else WELL

    def record(self) -> Record:
        """What can be asked about it."""
        reported = self.reported
        if reported is None:
            return replace(self.traits, state=self.state, last_seen_ms=self.seen_ms)
        return replace(
            self.traits, state=self.state, last_seen_ms=self.seen_ms,
            active=reported.active, phase=reported.phase, rev=reported.rev,
        )  # fmt: skip

    def speak(self, now_ms: int) -> None:
        """It said something itself, just now."""
        self.seen_ms = self.spoke_ms = now_ms
        self.is_missing = False

    def take_status(self, new: NodeState) -> bool:
        """Takes its presence; False for the will of a connection that was already replaced (rule 5 of the contract)."""
        if new.s == "lost" and self.status is not None and new.sess < self.status.sess:
            return False
        self.status = new
        return True


def blank(name: str) -> Node:
    """A node of which nothing is known yet."""
    return Node(name=name, traits=Record(node=name, state=UNKNOWN), series={})


def traits_of(card: Card) -> Record:
    """What a card says that can be asked for."""
    hardware, speed = card.hardware, card.speed
    return Record(
        node=card.node, state=UNKNOWN, site=_shared(card.site), labels=_shared_dict(tuple(sorted(card.labels.items()))),
        pools=_shared(tuple(card.pools)), machine=_shared(hardware.machine), processor=_shared(hardware.processor),
        os=_shared(hardware.os), cores=hardware.cores, ram_mib=hardware.ram_mib,
        agent=_shared(card.versions.get("shoal")),
        models=_shared(tuple(f"{model.name}@{model.version}" for model in card.models)),
        adapters=_shared(tuple(f"{adapter.name}@{adapter.version}" for adapter in card.adapters)),
        features=_shared(tuple(card.features)),
        prefill_tok_s=speed.prefill_tok_s if speed else None, decode_tok_s=speed.decode_tok_s if speed else None,
    )  # fmt: skip


def read_reported(payload: bytes) -> Reported:
    """The report. Most nodes of a fleet say the same most of the time.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    read = _read_reported if len(payload) <= SMALL_BYTES else _read_reported.__wrapped__
    return read(payload)


@lru_cache(maxsize=1024)
def _read_reported(payload: bytes) -> Reported:
    return msgspec.json.decode(payload, type=Reported)


@lru_cache(maxsize=16_384)
def _shared(value: Any) -> Any:
    return value


@lru_cache(maxsize=16_384)
def _shared_dict(items: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return dict(items)
