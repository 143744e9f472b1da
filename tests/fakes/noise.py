"""Bytes that cannot be compressed."""

import hashlib


def noise(num_bytes: int, seed: int = 0) -> bytes:
    """The same arguments give the same bytes."""
    return hashlib.shake_128(f"{seed}".encode()).digest(num_bytes)
