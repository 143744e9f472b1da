"""Which node of a site gets which segment over the line that is paid for. Pure.

Every node comes to the same answer from the same names, without a word between them (rendezvous hashing), and when one
goes only its segments change hands.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache


def owner_of(segment: str, nodes: Iterable[str]) -> str:
    """The node that fetches a segment for all of them."""
    return max(nodes, key=lambda node: rank(segment, node))


@lru_cache(maxsize=65_536)
def rank(segment: str, node: str) -> bytes:
    """A number that is drawn for each pair; the largest wins. It also spreads who is asked for what all have."""
    return hashlib.sha256(f"{node} {segment}".encode()).digest()
