"""What a job's end in the engine means for who asked. Values only."""

from array import array

from agent.engine import frames
from agent.job import Job
from contract.answers import Failure, Final, Usage
from contract.status import Status

EMBEDDING_DIGITS = 7


def embedded(job: Job, frame: frames.Embedded) -> Final:
    """The answer with vectors."""
    # More digits than 32-bit floats have would only make the message longer.
    vectors = [[round(number, EMBEDDING_DIGITS) for number in array("f", vector)] for vector in frame.vectors]
    return Final(id=job.id, status=Status.OK, embeddings=vectors, usage=Usage(frame.prompt_tokens, 0, 0))


def outcome(done: frames.Done) -> tuple[Status, Failure | None]:
    """Status and error that the way a generation ended stands for."""
    match done.finish_reason:
        case "deadline":
            return Status.DEADLINE, Failure(
                "deadline", "cannot answer in time: the deadline has passed; `text` is what there was"
            )
        case "cancelled":
            return Status.CANCELLED, Failure(
                "cancelled", "cannot answer: the request was cancelled; `text` is what there was"
            )
    if done.fits is False:
        why = "it was cut off by max_tokens" if done.finish_reason == "length" else "it does not fit"
        return Status.UNFIT, Failure("response_format", f"cannot make the answer fit the schema: {why}; see `text`")
    return Status.OK, None
