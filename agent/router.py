"""Where a request is answered: here, by a neighbour, in the cloud, or nowhere. Pure; the reason goes with the decision.

What this node can answer well and in time it answers itself. When it cannot, `Reason` says why, and then:
- a neighbour that can, in time, and before this node would; of several the one that is predicted to end first.
  Not for confidence: neighbours run models of the same size.
- else the cloud, when it is there and the request's privacy allows it.
- else this node all the same, if it can at all, and the answer says why it should not have; or a refusal.
A request that another node handed on is answered here or refused: never twice, so never in a circle.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from contract.requests import Reason

WayName = Literal["local", "peer", "cloud", "refuse"]


class Work(Struct, frozen=True):
    """What a request asks for. The tokens of the answer are those that are expected, not the most that there may be."""

    prompt_tokens: int
    completion_tokens: int
    left_ms: float
    may_site: bool = False
    may_cloud: bool = False
    handed: bool = False


class Place(Struct, frozen=True):
    """A node that may answer: what stands before a new request there, and its measured speeds."""

    node: str
    wait_ms: float
    prefill_tok_s: float
    decode_tok_s: float
    context_tokens: int
    able: bool = True  # it has the model, the adapter and the task

    def ends_ms(self, work: Work) -> float:
        """When it is predicted to have answered, from now; never, when it has no measured speed yet."""
        if self.prefill_tok_s <= 0 or self.decode_tok_s <= 0:
            return float("inf")
        compute_s = work.prompt_tokens / self.prefill_tok_s + work.completion_tokens / self.decode_tok_s
        return self.wait_ms + 1000 * compute_s

    def holds(self, work: Work) -> bool:
        """Whether the prompt fits into its context; an answer ends where that does."""
        return work.prompt_tokens < self.context_tokens


class Here(Struct, frozen=True):
    """This node: `healthy` is that an engine runs and the machine is not too hot; `full` that none may wait any more.

    `right` is how probable it is that an answer of this kind is right, from the calibration; None: not known.
    """

    place: Place
    healthy: bool = True
    full: bool = False
    right: float | None = None
    right_enough: float = 0.0


class CloudState(Struct, frozen=True):
    """Whether the cloud can be asked now: there is a way to it, it is not known to fail, the budget is not spent."""

    open: bool
    ends_ms: float = 0.0


class Decision(Struct, frozen=True):
    """Where to, and why not simply here; without a reason here is where it belongs."""

    way: WayName
    why: Reason | None = None
    node: str = ""
    ends_ms: float = 0.0


def route(work: Work, here: Here, neighbours: Sequence[Place], cloud: CloudState) -> Decision:
    """Decides. Takes microseconds with tens of neighbours."""
    own_ms = here.place.ends_ms(work)
    why = _why_not_here(work, here, own_ms)
    if why is None:
        return Decision("local", None, here.place.node, own_ms)
    if not work.handed:
        if work.may_site and why != "confidence":
            in_time = (
                (ends_ms, place.node)
                for place in neighbours
                if place.able and place.holds(work) and (ends_ms := place.ends_ms(work)) <= work.left_ms
            )
            best = min(in_time, default=None)
            if best is not None and (why != "queue" or here.full or best[0] < own_ms):
                return Decision("peer", why, best[1], best[0])
        if work.may_cloud and cloud.open and cloud.ends_ms <= work.left_ms:
            return Decision("cloud", why, "", cloud.ends_ms)
    # Lengths are estimated; of what is too long the engine itself knows for certain.
    can_here = why in ("queue", "confidence", "context") and not here.full
    return Decision("local" if can_here else "refuse", why, here.place.node, own_ms)


def _why_not_here(work: Work, here: Here, own_ms: float) -> Reason | None:
    if not here.place.able:
        return "capability"
    if not here.healthy:
        return "health"
    if not here.place.holds(work):
        return "context"
    # A node that has not measured itself yet has nothing to predict with, and is not late for that.
    if here.full or work.left_ms < own_ms < float("inf"):
        return "queue"
    if here.right is not None and here.right < here.right_enough:
        return "confidence"
    return None
