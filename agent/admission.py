"""Whether a request may wait for the engine, or why not. Pure."""

from agent.config import Limits
from contract.errors import Refused
from contract.status import Status

MIN_RETRY_AFTER_MS = 500


def stopping() -> Refused:
    """The node takes nothing new."""
    message = "cannot take the request: the node is stopping"
    return Refused(Status.UNAVAILABLE, "draining", message, retry_after_ms=10_000)


def no_engine() -> Refused:
    """There is nothing to wait for."""
    message = "cannot take the request: no engine runs on this node"
    return Refused(Status.UNAVAILABLE, "engine", message, retry_after_ms=30_000)


def check_room(client: str, num_waiting: int, num_of_client: int, limits: Limits, wait_s: float) -> None:
    """Whether one more request of `client` may wait; `wait_s` is how long it would.

    Raises:
        Refused: 429, with when to try again.
    """
    retry_after_ms = max(MIN_RETRY_AFTER_MS, round(1000 * wait_s))
    if num_waiting >= limits.queue:
        message = f"cannot take the request: {num_waiting} wait already, which is this node's limit"
        raise Refused(Status.BUSY, "queue", message, retry_after_ms=retry_after_ms)
    if num_of_client >= limits.client_queue:
        message = f"cannot take the request: {limits.client_queue} requests of {client} wait already"
        raise Refused(Status.BUSY, "client_queue", message, retry_after_ms=retry_after_ms)
