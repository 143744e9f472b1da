"""What was stored, read again. An older version may have taken what today's contract does not: that is left out."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

T = TypeVar("T")


def read(text: str, kind: type[T]) -> T | None:
    """A stored value; None when it is none any more."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError:
        return None


def read_all(texts: Iterable[str], kind: type[T]) -> Iterator[T]:
    """Stored values, without those that are none any more."""
    return (value for text in texts if (value := read(text, kind)) is not None)
