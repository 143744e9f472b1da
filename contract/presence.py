"""What a node and the controller say about themselves: presence, card, what a node can serve."""

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct

from contract.limits import MAX_HAVE_FILES
from contract.numbers import Amount, Count
from contract.release import Sha256
from contract.requests import Task

MAX_LISTED = 256  # models, or adapters, that a node tells its neighbours of

State = Literal["online", "draining", "degraded", "offline", "lost"]


class NodeState(Struct, frozen=True, omit_defaults=True):
    """Presence. `sess` grows with every connection, so a will of an older one (lower `sess`) is ignored."""

    s: State
    sess: Count
    ts: Annotated[Count, Meta(description="ms since 1970 on the node's clock")]
    report: Annotated[
        Annotated[str, Meta(max_length=64)] | None,
        Meta(description="In a heartbeat: `report_mark` of the node's last report."),
    ] = None


def report_mark(report: bytes) -> str:
    """By which a controller knows whether it has heard a report: the beginning of the SHA-256 of its bytes."""
    return hashlib.sha256(report).hexdigest()[:8]


class Hardware(Struct, frozen=True):
    """The machine a node runs on."""

    machine: str
    processor: str
    cores: Count
    ram_mib: Count
    os: str


class ModelInfo(Struct, frozen=True):
    """A base model that a node serves, loaded or not.

    `task` is what it is for, `dimensions` the length of an embedding model's vectors.
    """

    name: str
    version: str
    sha256: str
    bytes: Count
    architecture: str
    context_tokens: Count
    parallel: Count
    task: Task = "generate"
    dimensions: Count | None = None


class AdapterInfo(Struct, frozen=True):
    """An adapter that a node holds."""

    name: str
    version: str
    sha256: str
    base_sha256: str


class Speed(Struct, frozen=True):
    """Of the default model, measured by the node itself when its engine started: tokens a second, one stream."""

    prefill_tok_s: Amount
    decode_tok_s: Amount


class Card(Struct, frozen=True, kw_only=True):
    """What a node is and can do."""

    node: str
    site: str = ""
    labels: dict[str, str] = {}
    pools: list[str] = []
    versions: dict[str, str]
    hardware: Hardware
    models: list[ModelInfo] = []
    adapters: list[AdapterInfo] = []
    speed: Speed | None = None
    features: list[str] = []
    ts: Count


class Have(Struct, frozen=True):
    """Where neighbours on the site can fetch segments that this node holds, and of which files: their digests.

    `certificate` is the only one that this node shows, in DER form and hex, as a server and as a client: who wrote this
    topic is whom the broker let in.
    """

    site: str
    url: Annotated[str, Meta(max_length=128)]
    certificate: Annotated[str, Meta(max_length=8192)]
    files: Annotated[list[Sha256], Meta(max_length=MAX_HAVE_FILES)]


class Load(Struct, frozen=True, kw_only=True):
    """How soon a node could answer, for its neighbours: what stands before a new request, and how fast it is."""

    ts: Count
    wait_ms: Annotated[Count, Meta(description="Until a new request would begin, as the node predicts it.")]
    prefill_tok_s: Amount
    decode_tok_s: Amount
    context_tokens: Count
    models: Annotated[
        list[str], Meta(max_length=MAX_LISTED, description="`name@version`; the first answers requests without one.")
    ]
    adapters: Annotated[list[str], Meta(max_length=MAX_LISTED, description="`name@version`, for the first model.")] = []


class ControllerState(Struct, frozen=True):
    """Presence of the controller."""

    s: Literal["online", "offline", "lost"]
    sess: int
    ts: int
