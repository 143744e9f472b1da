"""Who answers a request, as the intake sees it: the engine of a model here, a neighbour, or the cloud."""

from typing import Protocol

from agent.job import Job
from contract.answers import Accepted


class Answerer(Protocol):
    """Ends every job that is submitted exactly once, through the job's `on_final`."""

    def submit(self, job: Job) -> None:
        """Takes a job."""

    def accepted(self, job: Job) -> Accepted:
        """What a client is told about a job that waits or runs."""

    def cancel(self, job: Job) -> None:
        """Stops a job; it ends with 499 unless it ends otherwise first."""
