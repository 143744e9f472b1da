"""Chooses who answers a request: asks the router with what this node knows, and makes what it says happen."""

import time
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from agent.answerer import Answerer
from agent.answering import Answering
from agent.cascade import Cascade
from agent.elsewhere import Elsewhere, handed_id
from agent.job import Job
from agent.neighbours import SPARED_S
from agent.privacy import Cleared, Cloud, Peer, Way, clear, may_leave
from agent.queue import CHARS_PER_TOKEN
from agent.redaction import Redactor
from agent.relay import Relay
from agent.router import CloudState, Decision, Here, Place, Work, route
from agent.site import Site
from agent.sureness import Sureness
from contract.errors import Refused
from contract.requests import Reason, Request
from contract.status import Status

# What a refusal of this node is a reason for. Others are about the request itself: it is refused wherever it goes.
REASONS: dict[Status, Reason] = {
    Status.NOT_FOUND: "capability",
    Status.UNAVAILABLE: "health",
    Status.NO_SPACE: "health",
    Status.BUSY: "queue",
}


class Chosen(NamedTuple):
    """Who answers; and why it should have been somebody else, when it is this node all the same."""

    answerer: Answerer
    why: Reason | None = None


class Dispatch:
    """The router's hands."""

    def __init__(
        self,
        node: str,
        *,
        site: Site,
        relay: Relay,
        redactor: Redactor,
        answering_for: Callable[[Request], Answering],
        place_of: Callable[[Request], Place],
        default_max_tokens: int,
        has_cloud: Callable[[], bool],
        sureness: Sureness,
    ) -> None:
        """`place_of` is this node, as far as the request's model is concerned; `has_cloud`: whether there is a way."""
        self._node = node
        self._site = site
        self._relay = relay
        self._redactor = redactor
        self._answering_for = answering_for
        self._place_of = place_of
        self._default_max_tokens = default_max_tokens
        self._has_cloud = has_cloud
        self._sureness = sureness
        self._cloud_spared_until_s = 0.0

    def choose(self, request: Request, client: str | None, left_ms: float) -> Chosen:
        """Who answers. Without a client it was admitted before, and is again however many wait.

        Raises:
            Refused: nobody may, can or has room.
        """
        answering, refusal = None, None
        try:
            answering = self._answering_for(request)
            if client is not None:
                answering.check_admission(client)
        except Refused as no:
            if no.status not in REASONS or no.code == "client_queue":  # a client has its share, not its neighbours'
                raise
            refusal = no
        if request.task != "generate" and refusal is not None:
            raise refusal
        decision = self._decide(request, left_ms, refusal)
        if decision.way == "refuse" or (decision.way == "local" and answering is None):
            raise refusal or Refused(Status.UNAVAILABLE, "router", f"cannot take the request: {decision.why}")
        if decision.way == "local" and answering is not None:
            if decision.why is None and self._may_ask_again(request, answering.model):
                return Chosen(Cascade(answering, self._cloud_for_confidence, self._sureness.is_enough))
            # Of a request that may not leave there is nothing to say: it could not have been elsewhere.
            return Chosen(answering, decision.why if request.privacy not in (None, "local") else None)
        why: Reason = decision.why or "queue"
        local = answering if refusal is None else None
        return Chosen(self._elsewhere(decision, why, local))

    def _decide(self, request: Request, left_ms: float, refusal: Refused | None) -> Decision:
        reason = REASONS[refusal.status] if refusal else None
        prompt_chars = sum(len(text) for _, text in request.turns)
        work = Work(
            prompt_tokens=prompt_chars // CHARS_PER_TOKEN,
            completion_tokens=request.max_tokens or self._default_max_tokens,
            left_ms=left_ms,
            may_site=may_leave(request.privacy, Peer("", self._site.name), self._site.name),
            may_cloud=may_leave(request.privacy, Cloud(), self._site.name),
            handed=request.handed is not None,
        )
        place = self._place_of(request) if reason != "capability" else Place(self._node, 0, 0, 0, 0)
        here = Here(replace(place, able=reason != "capability"), healthy=reason != "health", full=reason == "queue")
        neighbours = self._site.neighbours.places(request, time.monotonic()) if work.may_site else []
        return route(work, here, neighbours, CloudState(self._is_cloud_open()))

    def _is_cloud_open(self) -> bool:
        return self._has_cloud() and time.monotonic() >= self._cloud_spared_until_s

    def _may_ask_again(self, request: Request, model: str) -> bool:
        """Whether an answer may be judged, and asked for again in the cloud."""
        fits = request.task == "generate" and not request.stream and request.handed is None
        may_leave_for_it = may_leave(request.privacy, Cloud(), self._site.name)
        return fits and may_leave_for_it and self._sureness.knows(model) and self._is_cloud_open()

    def _cloud_for_confidence(self) -> Elsewhere:
        return self._elsewhere(Decision("cloud", "confidence"), "confidence", None)

    def _elsewhere(self, decision: Decision, why: Reason, local: Answerer | None) -> Elsewhere:
        way: Way = Peer(decision.node, self._site.name) if decision.way == "peer" else Cloud()
        if isinstance(way, Peer):
            self._site.neighbours.handed(way.node, decision.ends_ms)

        def leave(job: Job) -> Cleared:
            left_ms = max(1, round((job.deadline - time.monotonic()) * 1000))
            # A neighbour that streams says at once that it has the request.
            stream = job.request.stream or isinstance(way, Peer)
            leaving = replace(job.request, id=handed_id(job.client, job.id), ttl_ms=left_ms, exp=None, stream=stream)
            return clear(leaving, way, client=job.client, why=why, own_site=self._site.name, redactor=self._redactor)

        def failed() -> None:
            now_s = time.monotonic()
            if isinstance(way, Peer):
                self._site.neighbours.failed(way.node, now_s)
            else:
                self._cloud_spared_until_s = now_s + SPARED_S

        return Elsewhere(self._node, self._relay, leave, why, local=local, on_failed=failed)
