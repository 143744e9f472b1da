"""Devices of different speed that share the requests of a site, in simulated time. Pure: seeded, no clock, no sockets.

A device answers one request at a time and takes no more work within a window than it can do in it (a sliding window, as
a rate limit has). A policy sends each request to one device; what that device cannot take, or would end too late, goes
to the cloud. So a policy is judged by the tokens that it lets go there.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.router import CloudState, Here, Place, Work, route

WINDOW_S = 60.0
DEADLINE_MS = 20_000.0
CONTEXT_TOKENS = 4096
CLOUD_MS = 1_500.0


class Asked(NamedTuple):
    """A request, and when it comes."""

    at_s: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def tokens(self) -> int:
        """What a cloud would count."""
        return self.prompt_tokens + self.completion_tokens


class Outcome(NamedTuple):
    """Of one run: what went to the cloud, and how long everybody waited for the whole answer."""

    cloud_tokens: int
    total_tokens: int
    latencies_ms: list[float]


@dataclass
class Device:
    """A node: its speeds, until when it is busy, and the work it took within the window."""

    name: str
    prefill_tok_s: float
    decode_tok_s: float
    free_at_s: float = 0.0
    _taken: deque[tuple[float, float]] = field(default_factory=deque)
    _taken_s: float = 0.0

    def place(self, now_s: float) -> Place:
        """How it stands, as its neighbours hear of it."""
        wait_ms = max(0.0, self.free_at_s - now_s) * 1000
        return Place(self.name, wait_ms, self.prefill_tok_s, self.decode_tok_s, CONTEXT_TOKENS)

    def has_room(self, work_s: float, now_s: float) -> bool:
        """Whether the work still fits into the window that ends now."""
        while self._taken and self._taken[0][0] <= now_s - WINDOW_S:
            self._taken_s -= self._taken.popleft()[1]
        return self._taken_s + work_s <= WINDOW_S

    def take(self, work_s: float, now_s: float) -> None:
        """Works on something, behind what it has."""
        self._taken.append((now_s, work_s))
        self._taken_s += work_s
        self.free_at_s = max(self.free_at_s, now_s) + work_s


# Which device a request goes to.
Policy = Callable[[Sequence[Device], Work, float, random.Random], Device]


def random_policy(devices: Sequence[Device], _work: Work, _now_s: float, rng: random.Random) -> Device:
    """Anyone."""
    return rng.choice(devices)


def weighted(devices: Sequence[Device], _work: Work, _now_s: float, rng: random.Random) -> Device:
    """The faster the likelier."""
    return rng.choices(devices, [device.decode_tok_s for device in devices])[0]


def load_aware(devices: Sequence[Device], work: Work, now_s: float, rng: random.Random) -> Device:
    """Where the agent's own rules would have it: at the node that was asked, or the neighbour that ends first."""
    asked = rng.choice(devices)
    with_room = [one for one in devices if one.has_room(one.place(now_s).ends_ms(work) / 1000, now_s)]
    others = [one.place(now_s) for one in with_room if one is not asked]
    here = Here(asked.place(now_s), full=asked not in with_room)
    decision = route(work, here, others, CloudState(open=False))
    return next(one for one in devices if one.name == (decision.node or asked.name))


POLICIES: dict[str, Policy] = {"random": random_policy, "weighted": weighted, "loadaware": load_aware}


def site() -> list[Device]:
    """Eight devices: speeds of a 0.1 to 3 billion parameter model on boards from a Raspberry Pi to a Jetson AGX."""
    speeds = ((400, 40), (400, 40), (120, 12), (120, 12), (60, 6), (60, 6), (900, 30), (250, 20))
    return [Device(f"n{number}", float(one), float(two)) for number, (one, two) in enumerate(speeds)]


def arrivals(seed: int, num_requests: int, per_s: float, *, bursty: bool) -> list[Asked]:
    """Requests at random times. Bursty: for a tenth of the time ten times as many as else, on average as many."""
    rng = random.Random(seed)
    asked, now_s = list[Asked](), 0.0
    while len(asked) < num_requests:
        now_s += rng.expovariate(per_s * (10 / 1.9 if bursty else 1))
        if bursty and now_s % 100 >= 10 and rng.random() >= 0.1:
            continue  # between bursts one of ten comes
        prompt = min(1500, round(rng.lognormvariate(4.5, 0.8)))
        asked.append(Asked(now_s, max(8, prompt), max(4, min(400, round(rng.lognormvariate(3.7, 0.7))))))
    return asked


def simulate(asked: Sequence[Asked], policy: Policy, seed: int) -> Outcome:
    """Runs the requests through a site."""
    rng, devices = random.Random(seed), site()
    cloud_tokens, latencies = 0, list[float]()
    for one in asked:
        work = Work(one.prompt_tokens, one.completion_tokens, DEADLINE_MS, may_site=True)
        device = policy(devices, work, one.at_s, rng)
        place = device.place(one.at_s)
        ends_ms = place.ends_ms(work)
        work_s = (ends_ms - place.wait_ms) / 1000
        if ends_ms > DEADLINE_MS or not device.has_room(work_s, one.at_s):
            cloud_tokens += one.tokens
            latencies.append(CLOUD_MS)
        else:
            device.take(work_s, one.at_s)
            latencies.append(ends_ms)
    return Outcome(cloud_tokens, sum(one.tokens for one in asked), latencies)
