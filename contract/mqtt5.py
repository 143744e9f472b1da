"""The MQTT 5 mirror: what of a message also stands in properties.

The JSON payload is authoritative, because a broker drops properties for 3.1.1 subscribers.
"""

import msgspec

from contract import topics
from contract.errors import Refused
from contract.ids import request_id_of
from contract.limits import MAX_TTL_MS
from contract.requests import Request
from contract.status import Status

VERSION = "1"


class Properties(msgspec.Struct, frozen=True, omit_defaults=True):
    """The properties that the contract uses, free of any MQTT library."""

    correlation: bytes | None = None
    response_topic: str | None = None
    expiry_s: int | None = None
    user: tuple[tuple[str, str], ...] = ()


def for_answer(
    request_id: str, *, correlation: bytes | None = None, status: int | None = None, seq: int | None = None
) -> Properties:
    """The properties of an answer; `correlation` is the sender's own, given back byte for byte."""
    user = [("shoal-v", VERSION)]
    if status is not None:
        user.append(("shoal-status", str(status)))
    if seq is not None:
        user.append(("shoal-seq", str(seq)))
    return Properties(correlation=correlation or request_id.encode(), user=tuple(user))


def complete(request: Request, properties: Properties) -> Request:
    """The request with what only its properties say. What its body says stays.

    A broker takes the time that a message waited off its expiry, so on arrival that is the time which is left.
    """
    changes: dict[str, object] = {}
    if request.id is None and properties.correlation:
        changes["id"] = request_id_of(properties.correlation)
    if request.reply_to is None and properties.response_topic:
        changes["reply_to"] = properties.response_topic
    if request.exp is None and request.ttl_ms is None and properties.expiry_s is not None:
        changes["ttl_ms"] = max(1, min(properties.expiry_s * 1000, MAX_TTL_MS))
    return msgspec.structs.replace(request, **changes) if changes else request


def check_reply_to(request: Request, fleet: str, client: str) -> None:
    """Refuses a reply topic that is not the sender's own.

    Raises:
        Refused: 403.
    """
    if request.reply_to is not None and not topics.is_below_client(request.reply_to, fleet, client):
        raise Refused(
            Status.FORBIDDEN,
            "reply_to",
            f"cannot answer to {request.reply_to[:200]!r}: "
            f"only topics below {topics.ROOT}/{fleet}/client/{client}/ are accepted",
            request_id=request.id,
        )
