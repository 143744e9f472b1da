"""Numbers that a node may send. A device is in anybody's hands, and JSON itself knows no largest number."""

from typing import Annotated

from msgspec import Meta

from contract.limits import MAX_INTEGER

Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Amount = Annotated[float, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)]


def clamp(total: float) -> float:
    """The nearest number that may be sent: a sum of such numbers need not be one."""
    return max(-MAX_INTEGER, min(MAX_INTEGER, total))
