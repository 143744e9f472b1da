"""Status codes of answers. Their numbers follow HTTP where HTTP has the same meaning."""

from enum import IntEnum


class Status(IntEnum):
    """What became of a request."""

    OK = 200
    ACCEPTED = 202
    INVALID = 400
    FORBIDDEN = 403
    NOT_FOUND = 404
    DEADLINE = 408
    CONFLICT = 409
    TOO_LARGE = 413
    UNFIT = 422
    BUSY = 429
    CANCELLED = 499
    ENGINE_FAILED = 500
    CLOUD_FAILED = 502
    UNAVAILABLE = 503
    NO_SPACE = 507


MEANINGS = {
    Status.OK: "done",
    Status.ACCEPTED: "accepted (delta with seq 0)",
    Status.INVALID: "not valid; `code` says which field",
    Status.FORBIDDEN: "reply topic or privacy not allowed",
    Status.NOT_FOUND: "no such model or adapter here",
    Status.DEADLINE: "deadline passed",
    Status.CONFLICT: "same id, different body",
    Status.TOO_LARGE: "longer than the context, or than a payload may be",
    Status.UNFIT: "the output could not be made to fit the schema; `text` is what came out",
    Status.BUSY: "queue or quota full; `retry_after_ms` says when to try again",
    Status.CANCELLED: "cancelled",
    Status.ENGINE_FAILED: "the engine failed twice on this request; `code` quarantined: that was earlier",
    Status.CLOUD_FAILED: "cloud failed and there is no local answer",
    Status.UNAVAILABLE: "draining, or no engine is ready",
    Status.NO_SPACE: "not enough memory or disk",
}
