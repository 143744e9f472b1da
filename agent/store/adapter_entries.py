"""What the store says of adapters."""

import msgspec

from agent.weights.adapter import Activation
from agent.weights.parts import Parts

VERSION_DIGITS = 12


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter under one of its names; `name` is empty for one that nothing names any more, and `name@version` for
    one that came as a release, of which there may be several versions.

    `scores` say how it did in its test on bases, by their digests.
    """

    name: str
    sha256: str
    base_sha256: str
    bytes: int
    rank: int
    activation: Activation
    scores: dict[str, float]
    pinned: bool = False
    imported_ms: int = 0

    @property
    def label(self) -> str:
        """`name@version`, as answers give it; the version is the digest's beginning where no release says one."""
        return self.name if "@" in self.name else f"{self.name}@{self.sha256[:VERSION_DIGITS]}"


class NewAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be stored: a whole file that was checked, in parts."""

    sha256: str
    base_sha256: str
    bytes: int
    rank: int
    activation: Activation
    scores: dict[str, float]
    parts: Parts


class Sizes(msgspec.Struct, frozen=True):
    """Bytes of an adapter: its own, with the header, and those of tensors that others have too."""

    own: int
    shared: int


class Use(msgspec.Struct, frozen=True):
    """How much an adapter was used. `uses` fades: it is what eviction goes by."""

    hits: int
    uses: float
    last_use_ms: int
