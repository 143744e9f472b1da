"""What an answer looks like on the terminal while it comes."""

from collections.abc import Iterable

import msgspec

from contract.answers import Delta, Final
from contract.status import Status
from fleet.exchange import Answer, Notice
from fleet.terminal import warn, write
from fleet.transcript import Transcript


def show(messages: Iterable[Answer | Notice], *, stream: bool, json: bool) -> Final:
    """Prints what comes back and returns the final."""
    transcript = Transcript()
    for message in messages:
        if isinstance(message, Notice):
            warn(message.text)
            continue
        said = message.message
        if json and (stream or isinstance(said, Final)):
            write(_json_line(message.raw))
        elif isinstance(said, Delta) and stream:
            write(transcript.add(said), end="")
        elif isinstance(said, Final) and (stream or said.status == Status.OK):
            write(_rest(transcript, said.text))
        if isinstance(said, Final):
            return said
    raise AssertionError("an exchange ends with a final or an error")


def _rest(transcript: Transcript, text: str | msgspec.UnsetType) -> str:
    if isinstance(text, msgspec.UnsetType):
        return ""
    fits, rest = transcript.finish(text)
    return rest if fits else f"\n[the answer was made again; this is all of it]\n{rest}"


def _json_line(raw: bytes) -> str:
    return msgspec.json.format(raw, indent=-1).decode()
