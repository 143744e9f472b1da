"""Who asked, how, and what goes back to them: topics and forms of answers. Values only."""

import msgspec

from agent.store.outbox import Letter
from contract import mqtt5, topics
from contract.answers import Accepted, Delta, Failure, Final, plain_error
from contract.mqtt5 import Properties
from contract.status import Status


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's side of a request."""

    client: str
    id: str
    plain: bool
    reply_to: str | None = None
    correlation: bytes | None = None

    def letter(self, fleet: str, final: Final) -> Letter:
        """The answer, as the outbox keeps it."""
        return self.letter_again(fleet, self._payload(final), final.status)

    def letter_again(self, fleet: str, payload: bytes, status: int) -> Letter:
        """An answer that was written before."""
        own: topics.Topic = topics.PlainAnswer(self.client) if self.plain else topics.AnswerFinal(self.client, self.id)
        properties = mqtt5.for_answer(self.id, correlation=self.correlation, status=status)
        return Letter(self.reply_to or own.path(fleet), payload, properties)

    def delta(self, fleet: str, delta: Accepted | Delta) -> tuple[str, bytes, Properties]:
        """A piece of the answer: topic, payload, properties. Who asked in plain text gets none."""
        topic = topics.AnswerDelta(self.client, self.id).path(fleet)
        status = Status.ACCEPTED if delta.seq == 0 else None
        properties = mqtt5.for_answer(self.id, correlation=self.correlation, status=status, seq=delta.seq)
        return topic, msgspec.json.encode(delta), properties

    def _payload(self, final: Final) -> bytes:
        if not self.plain:
            return msgspec.json.encode(final)
        if isinstance(final.error, Failure):
            return plain_error(final.status, final.error).encode()
        return str(final.text or "").encode()
