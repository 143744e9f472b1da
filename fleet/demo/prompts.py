"""The demo's client: prompts as an IoT device would publish them, and what comes back."""

import contextlib
import re
import time
from dataclasses import dataclass
from typing import Any

import msgspec
from rich.console import Console

from contract.answers import Accepted, Delta, Final
from contract.ids import new_request_id
from contract.requests import Request
from contract.status import Status
from contract.topics import AnswerDelta, AnswerFinal, NodeRequest, PlainAnswer
from fleet.demo.adapter import NAME, Adapter
from fleet.errors import AnswerError
from fleet.exchange import Exchange, Notice, failure_sentence
from fleet.link import Incoming, Link
from fleet.question import check_request, encode_request
from fleet.terminal import one_line, visible
from fleet.transcript import Transcript

Actions = list[dict[str, str | int]]

CLIENT = "demo-client"
ANSWERED_WITHIN_S = 120.0

PLAIN_PROMPT = "The freezer shows -9 degrees Celsius. Is that too warm? Answer in one short sentence."
STREAM_PROMPT = "Give three short tips to save energy in the kitchen."
# For devices that nobody named: it takes knowing what a movie night is.
WISH = "movie night in the living room"
WISHED: Actions = [
    {"room": "living room", "device": "light", "set": 20},
    {"room": "living room", "device": "blinds", "set": "closed"},
    {"room": "living room", "device": "tv", "set": "on"},
]

_PLAIN_ERROR = re.compile(r"error (\d{3}): ")


@dataclass(frozen=True)
class Client:
    """A device that asks one node."""

    link: Link
    fleet: str
    node: str
    console: Console

    def ask_plain(self) -> None:
        """A plain text, as `mosquitto_pub -m` sends it; the answer is plain text too.

        Raises:
            AnswerError: it is not answered with 200.
        """
        to, answer = NodeRequest(self.node, CLIENT), PlainAnswer(CLIENT).path(self.fleet)
        self.link.subscribe({answer: 1})
        self._show_sent(to, PLAIN_PROMPT)
        self.link.publish(to.path(self.fleet), PLAIN_PROMPT.encode())
        deadline = time.monotonic() + ANSWERED_WITHIN_S
        while (left_s := deadline - time.monotonic()) > 0:
            incoming = self.link.next(left_s)
            if incoming is None or incoming.topic != answer:
                continue
            text = incoming.payload.decode(errors="replace")
            self._show_arrived(answer, text)
            if _plain_status(incoming, text) != Status.OK:
                raise AnswerError(f"cannot get an answer to the plain prompt: {one_line(text)}")
            return
        raise AnswerError(f"cannot get an answer to the plain prompt within {ANSWERED_WITHIN_S:.0f} s")

    def ask_streaming(self) -> Final:
        """JSON with `"stream": true`: tokens are shown as they arrive.

        Raises:
            AnswerError: it is not answered with 200.
        """
        return self._ask({"prompt": STREAM_PROMPT, "stream": True, "max_tokens": 64})

    def ask_for_actions(self, adapter: Adapter, *, with_adapter: bool) -> Actions:
        """JSON with a schema: the answer is an object that a program can use. The bare model or the adapter gives it.

        Raises:
            AnswerError: it is not answered with 200, or not with what the schema asks for.
        """
        final = self._ask(
            {
                "messages": [{"role": "system", "content": adapter.system}, {"role": "user", "content": WISH}],
                "response_format": {"type": "json_schema", "json_schema": {"schema": adapter.schema}},
                "adapter": NAME if with_adapter else None,
                "max_tokens": 160,
                "temperature": 0.0,
            }
        )
        try:
            return msgspec.json.decode(final.text or "", type=dict[str, Actions])["actions"]
        except (msgspec.DecodeError, KeyError) as error:
            raise AnswerError(f"cannot read the actions: {error}; they should have fitted the schema") from None

    def _ask(self, fields: dict[str, Any]) -> Final:
        ttl_ms = int(ANSWERED_WITHIN_S * 1000)
        request = check_request(fields | {"id": new_request_id(), "ttl_ms": ttl_ms})
        to = NodeRequest(self.node, CLIENT)
        self._show_sent(to, encode_request(request).decode())
        with contextlib.closing(Exchange(self.link, self.fleet, to, request)) as exchange:
            final = self._show(exchange, request)
        if final.status != Status.OK:
            raise AnswerError(failure_sentence(final))
        return final

    def _show(self, exchange: Exchange, request: Request) -> Final:
        transcript = Transcript()
        request_id = request.id or ""
        for message in exchange:
            if isinstance(message, Notice):
                continue
            said = message.message
            if isinstance(said, Accepted) and request.stream:
                accepted = f"accepted by {said.node}, {said.queue} before it, model {said.model}"
                self._show_arrived(AnswerDelta(CLIENT, request_id).path(self.fleet), accepted)
            elif isinstance(said, Delta):
                self.console.out(visible(transcript.add(said)), end="", highlight=False)
            elif isinstance(said, Final):
                _, rest = transcript.finish(said.text or "")
                if request.stream:
                    self.console.out(visible(rest), highlight=False)
                topic = AnswerFinal(CLIENT, request_id).path(self.fleet)
                self._show_arrived(topic, summary(said) if request.stream else said.text or summary(said))
                return said
        raise AssertionError("an exchange ends with a final or an error")

    def _show_sent(self, to: NodeRequest, payload: str) -> None:
        self.console.print(f"  → {to.path(self.fleet)}\n    {one_line(payload)}", soft_wrap=True)

    def _show_arrived(self, topic: str, text: str) -> None:
        self.console.print(f"  ← {topic}\n    {one_line(text)}", soft_wrap=True)


def summary(final: Final) -> str:
    """Tokens, time to the first one, and speed, as the node measured them."""
    parts = [f"status {final.status}"]
    if final.finish_reason:
        parts.append(f"finished by {final.finish_reason}")
    if final.usage:
        parts.append(f"{final.usage.completion_tokens} tokens")
    if final.timings and final.timings.first_token_ms is not None:
        parts.append(f"first after {final.timings.first_token_ms:.0f} ms")
    if (speed := tokens_per_s(final)) is not None:
        parts.append(f"{speed:.0f} tokens/s")
    return ", ".join(parts)


def tokens_per_s(final: Final) -> float | None:
    """Tokens after the first one, per second; None when there are too few to tell."""
    if not final.usage or not final.timings or final.timings.first_token_ms is None:
        return None
    seconds = (final.timings.total_ms - final.timings.first_token_ms) / 1000
    return (final.usage.completion_tokens - 1) / seconds if seconds > 0 and final.usage.completion_tokens > 1 else None


def _plain_status(incoming: Incoming, text: str) -> int:
    """The status of a plain answer: a property with MQTT 5; without properties the text of an error tells."""
    for name, value in incoming.properties.user:
        if name == "shoal-status" and value.isdecimal():
            return int(value)
    found = _PLAIN_ERROR.match(text)
    return int(found[1]) if found else Status.OK
