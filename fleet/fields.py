"""What can be asked about a node: every field of the query language, and where it stands in a node's record. Pure."""

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

LABEL = "label."
STATES = ("online", "draining", "degraded", "offline", "lost")


class Kind(Enum):
    """What a field holds, in words for error messages."""

    TEXT = "a text"
    NUMBER = "a number"
    AGE = "an age"


class Record(Struct, frozen=True, kw_only=True):
    """What the controller knows of a node. What is not known is None or empty, and fits no comparison but `!=`."""

    node: str
    state: str
    last_seen_ms: int | None = None
    site: str | None = None
    labels: dict[str, str] = {}
    pools: tuple[str, ...] = ()
    machine: str | None = None
    processor: str | None = None
    os: str | None = None
    cores: int | None = None
    ram_mib: int | None = None
    agent: str | None = None
    models: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    active: str | None = None
    phase: str | None = None
    rev: int | None = None


Values = tuple[str | float, ...]

FIELDS: dict[str, tuple[Kind, Callable[[Record, int], Values]]] = {
    "node": (Kind.TEXT, lambda record, _: (record.node,)),
    "state": (Kind.TEXT, lambda record, _: (record.state,)),
    "site": (Kind.TEXT, lambda record, _: _known(record.site)),
    "pool": (Kind.TEXT, lambda record, _: record.pools),
    "machine": (Kind.TEXT, lambda record, _: _known(record.machine)),
    "processor": (Kind.TEXT, lambda record, _: _known(record.processor)),
    "os": (Kind.TEXT, lambda record, _: _known(record.os)),
    "cores": (Kind.NUMBER, lambda record, _: _known(record.cores)),
    "ram_mib": (Kind.NUMBER, lambda record, _: _known(record.ram_mib)),
    "agent": (Kind.TEXT, lambda record, _: _known(record.agent)),
    "model": (Kind.TEXT, lambda record, _: record.models),
    "adapter": (Kind.TEXT, lambda record, _: record.adapters),
    "feature": (Kind.TEXT, lambda record, _: record.features),
    "prefill_tok_s": (Kind.NUMBER, lambda record, _: _known(record.prefill_tok_s)),
    "decode_tok_s": (Kind.NUMBER, lambda record, _: _known(record.decode_tok_s)),
    "active": (Kind.TEXT, lambda record, _: _known(record.active)),
    "phase": (Kind.TEXT, lambda record, _: _known(record.phase)),
    "rev": (Kind.NUMBER, lambda record, _: _known(record.rev)),
    "last_seen": (
        Kind.AGE,
        lambda record, now_ms: () if record.last_seen_ms is None else (max(0, now_ms - record.last_seen_ms),),
    ),
}


def kind_of(field: str) -> Kind | None:
    """What a field holds; None when there is no such field."""
    if field.startswith(LABEL) and len(field) > len(LABEL):
        return Kind.TEXT
    return FIELDS[field][0] if field in FIELDS else None


def values_of(field: str, record: Record, now_ms: int) -> Values:
    """A node's values of a field: none, one, or several of which one is enough."""
    if field.startswith(LABEL):
        return _known(record.labels.get(field.removeprefix(LABEL)))
    return FIELDS[field][1](record, now_ms)


def _known(value: str | float | None) -> Values:
    return () if value is None else (value,)
