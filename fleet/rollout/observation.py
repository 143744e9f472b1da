"""What the controller knows of a node when it takes a step with a rollout."""

from msgspec import Struct

from fleet.fields import Record


class Metrics(Struct, frozen=True, kw_only=True):
    """How a node answered from `since_ms` until now. None: not measured."""

    since_ms: int
    num_requests: int = 0
    num_errors: int = 0
    p95_ms: float | None = None
    tok_s: float | None = None
    num_crashes: int = 0


class Observation(Struct, frozen=True, kw_only=True):
    """A node as it is known. Its phase stands in the record, as the node reported it last.

    `wished` and `active` are about the model, or the adapter of one name.
    """

    record: Record
    wished: str | None = None  # the release that its newest stored document names; None: the node's own default
    active: str | None = None  # the release that serves, as it reports
    is_current: bool = False  # its report is about that document
    is_gated: bool = False  # its report says that the gate decided
    error: str | None = None  # why it could not follow, as it reports
    held_by: str | None = None  # another rollout, which has given it a release and is not over
    metrics: Metrics | None = None

    @property
    def is_here(self) -> bool:
        """Whether it can follow a wish now."""
        return self.record.state in ("online", "degraded", "draining")
