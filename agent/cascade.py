"""Answers here first; what is probably wrong is asked for again in the cloud; the own one is kept in case that fails.

Not for requests that stream: their pieces are out, and no answer is continued by another.
"""

import time
from collections.abc import Callable

from msgspec.structs import replace

from agent.answerer import Answerer
from agent.job import Job
from contract.answers import Accepted, Final
from contract.status import Status


class Cascade:
    """One request's."""

    def __init__(self, local: Answerer, cloud: Callable[[], Answerer], is_enough: Callable[[Final], bool]) -> None:
        """`cloud` makes who asks there, when it comes to that."""
        self._local = local
        self._cloud = cloud
        self._is_enough = is_enough
        self._again: tuple[Answerer, Job] | None = None

    def submit(self, job: Job) -> None:
        """Takes a job."""
        tell = job.on_final

        async def judge(own: Final) -> None:
            if own.status != Status.OK or time.monotonic() >= job.deadline or self._is_enough(own):
                await tell(own)
                return

            async def choose(other: Final) -> None:
                await tell(other if other.status == Status.OK else replace(own, why="confidence"))

            again = Job(
                client=job.client, id=job.id, request=job.request, arrived=job.arrived, deadline=job.deadline,
                on_delta=job.on_delta, on_final=choose,
            )  # fmt: skip
            self._again = self._cloud(), again
            self._again[0].submit(again)

        job.on_final = judge
        self._local.submit(job)

    def accepted(self, job: Job) -> Accepted:
        """It waits here."""
        return self._local.accepted(job)

    def cancel(self, job: Job) -> None:
        """Stops it, wherever it is. In the cloud, the own answer is what it ends with."""
        if self._again is None:
            self._local.cancel(job)
        else:
            self._again[0].cancel(self._again[1])
