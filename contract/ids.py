"""Ids of fleets, nodes, clients, pools, groups and requests.

Nodes and clients share one name space: an id is one or the other, never both.
"""

import hashlib
import re
import secrets

END = r"$(?!\n)"  # `$` alone would let a trailing newline pass, and `\Z` is no word of JSON Schema's
ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}" + END
ID_RULE = "1 to 63 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"

_ID = re.compile(ID_PATTERN)
_FOREIGN = re.compile(r"[^a-z0-9._-]+")


def is_id(text: str) -> bool:
    """Whether `text` is a valid id."""
    return _ID.match(text) is not None


def new_request_id() -> str:
    """An id for a request that came without one: 128 random bits."""
    return f"n-{secrets.token_hex(16)}"


def request_id_of(correlation: bytes) -> str:
    """The request id that MQTT 5 correlation data stands for.

    Correlation data that is an id is that id. Any other bytes give the same id each time, so that a
    retry with the same correlation data is still the same request.
    """
    text = correlation.decode("ascii", errors="replace")
    return text if is_id(text) else f"c-{hashlib.sha256(correlation).hexdigest()[:32]}"


def id_from(text: str, fallback: str) -> str:
    """The nearest valid id to a free text such as a host name or a file name."""
    near = _FOREIGN.sub("-", text.lower()).strip("._-")[:63]
    return near if is_id(near) else fallback
