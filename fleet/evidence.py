"""What is known about one node when somebody asks why it is not well. Values only."""

from typing import Literal

from msgspec import Struct

from contract.presence import State
from contract.steering import Phase


class Evidence(Struct, frozen=True, kw_only=True):
    """What the controller sees, and what the node said last. None: not known. "Lately" is the last hour.

    Ages and durations are in seconds on the controller's clock. What the node said is as old as `seen_s`.
    """

    node: str

    # what the controller sees
    broker_down_s: float | None = None  # since when it has no connection itself; None: it has one
    state: State | None = "online"  # None: the node was never there
    seen_s: float | None = 0.0
    keepalive_s: float = 60.0
    enrolled_s: float | None = None
    is_enrolled: bool = True  # False: it has an id and perhaps a token, and no key
    token_left_s: float | None = None  # of what it can still enrol with; below 0: it ran out
    certificate_left_s: float | None = None  # below 0: expired
    is_revoked: bool = False
    site: str = ""
    site_nodes: int = 0  # others of its site
    site_nodes_lost: int = 0
    starts: int = 0  # of the agent, lately
    clock_ahead_s: float | None = None  # of the node's clock before the controller's
    document_refusals: tuple[str, ...] = ()  # events of `contract.signed.Refusal`, lately
    desired_rev: int | None = None

    # what the node said last
    disk_free_mib: int | None = None
    ram_mib: int | None = None
    ram_available_mib: int | None = None
    memory_stalled_percent: float | None = None  # pressure-stall information
    cpu_stalled_percent: float | None = None
    temperature_c: float | None = None
    throttled_percent: float | None = None  # of the time, lately
    num_models: int | None = None
    engine: Literal["asleep", "starting", "ready", "broken", "stopped"] | None = None
    engine_problem: str = ""
    deaths: dict[str, int] = {}  # of engines lately, by `agent.engine.death.Death`
    quarantined: int = 0
    queue: int | None = None
    queue_limit: int | None = None
    answers: dict[int, int] = {}  # lately, by status; 400 and 500 stand for all that begin like them
    reported_rev: int | None = None
    phase: Phase | None = None
    phase_late_s: float = 0.0  # past the end that it promised
    error: str = ""  # of the phase
    gate_reasons: tuple[str, ...] = ()  # that its gate has against a release

    @property
    def is_here(self) -> bool:
        """Whether it is connected, as far as the broker knows, and heard."""
        return self.state in ("online", "degraded", "draining") and not self.is_silent

    @property
    def is_silent(self) -> bool:
        """Whether nothing came for so long that the broker should have told of its death."""
        return self.seen_s is not None and self.seen_s > 1.5 * self.keepalive_s + SILENCE_S


# A node says something at each heartbeat at least; one lost message (telemetry has QoS 0) is no silence.
SILENCE_S = 120.0
