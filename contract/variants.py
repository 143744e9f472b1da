"""A model in several number formats: what one of them showed, as the agent's package tells the controller's. Pure."""

from msgspec import Struct

# An adapter that answers a smaller share of its task by more than this than on its best variant is unfit for one.
TOLERANCE = 0.02


class Variant(Struct, frozen=True, kw_only=True):
    """A file and what it showed. Shares are of golden prompts answered as expected; None: there are none."""

    kind: str | None  # None: the file as it came
    file: str
    bytes: int
    tok_s: float | None
    text_bits: float | None
    perplexity: float | None
    golden: float | None
    adapters: dict[str, float | None]
