"""What this node knows of the load of others on its site. Pure: the clock is passed in.

A node says its load when it has changed much, and at each heartbeat. Between two such messages this node adds what it
handed over itself, so that a burst does not go to one neighbour as a whole.
"""

from dataclasses import dataclass

from agent.router import Place
from contract.presence import Load
from contract.requests import Request
from contract.steering import HEARTBEAT_S

# Two heartbeats and a bit: who has said nothing for so long is not there.
STALE_S = 2.2 * HEARTBEAT_S
# After a hand-over that came to nothing a neighbour is left alone for so long.
SPARED_S = 30.0


@dataclass(slots=True)
class _Neighbour:
    load: Load
    heard_s: float
    wait_ms: float  # as it said, or longer with what was handed to it since
    spared_until_s: float = 0.0


class Neighbours:
    """The nodes of the site, but this one."""

    def __init__(self) -> None:
        self._known: dict[str, _Neighbour] = {}

    def heard(self, node: str, load: Load | None, now_s: float) -> None:
        """A neighbour said its load; None: it has gone."""
        if load is None:
            self._known.pop(node, None)
            return
        before = self._known.get(node)
        spared_until_s = before.spared_until_s if before else 0.0
        self._known[node] = _Neighbour(load, now_s, load.wait_ms, spared_until_s)

    def handed(self, node: str, ends_ms: float) -> None:
        """A neighbour was handed a request, which it is predicted to end so late; the next one comes behind it."""
        if node in self._known:
            self._known[node].wait_ms = max(self._known[node].wait_ms, ends_ms)

    def failed(self, node: str, now_s: float) -> None:
        """A neighbour did not take what was handed to it."""
        if node in self._known:
            self._known[node].spared_until_s = now_s + SPARED_S

    def places(self, request: Request, now_s: float) -> list[Place]:
        """Who could be handed a request, whether it is able to answer it or not."""
        return [
            Place(
                node,
                one.wait_ms,
                one.load.prefill_tok_s,
                one.load.decode_tok_s,
                one.load.context_tokens,
                able=_has_all(one.load, request),
            )
            for node, one in self._known.items()
            if now_s - one.heard_s < STALE_S and now_s >= one.spared_until_s
        ]


def differs_much(said: Load | None, now: Load) -> bool:
    """Whether a load is worth a message: another model or adapter, or a wait that is twice or half of what was said."""
    if said is None or (said.models, said.adapters) != (now.models, now.adapters):
        return True
    less, more = sorted((said.wait_ms + 500, now.wait_ms + 500))  # half a second more or less is no news
    return more >= 2 * less


def _has_all(load: Load, request: Request) -> bool:
    has_model = (request.model is None and bool(load.models)) or _names(request.model, load.models)
    has_adapter = not isinstance(request.adapter, str) or _names(request.adapter, load.adapters)
    return request.task == "generate" and has_model and has_adapter


def _names(reference: str | None, labels: list[str]) -> bool:
    return reference is not None and any(reference in (label, label.partition("@")[0]) for label in labels)
