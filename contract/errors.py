"""The one error of the contract: something a sender asked for is refused."""

from contract.status import Status


class Refused(Exception):
    """A request that gets an error for an answer.

    Attributes:
        status: the status code of the answer.
        code: for 400 the field at fault, else a fixed word for programs.
        message: a sentence for people: names field and value, and says what would be accepted. It may quote the
            sender, so it goes to the sender and nowhere else.
        retry_after_ms: when trying again makes sense, if it does.
        request_id: the id the sender gave, when it could be read.
    """

    def __init__(
        self,
        status: Status,
        code: str,
        message: str,
        *,
        retry_after_ms: int | None = None,
        request_id: str | None = None,
    ) -> None:
        # Only status and code go to Exception: a traceback must never show a sender's text.
        super().__init__(int(status), code)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.request_id = request_id
