"""`python -m agent.update.child`: does one errand, which it reads as a line of JSON, and says how it goes.

It has the heavy libraries. Children and `update import` alone write `agent.update.record` and the metadata. It may be
killed at any moment, and ends when the daemon does.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import msgspec

from agent.errors import AgentError
from agent.update.errand import Check, Ended, Fetch, Neighbours, Said
from agent.update.errors import UpdateFailed, UpdateRefused, UpdateTroubled
from agent.update.record import Record

NICENESS: Final = 10  # answers come before updates


def main() -> int:
    """Does the errand; the last line says how it ended."""
    os.nice(NICENESS)
    lines = _lines()
    errand = msgspec.json.decode(next(lines), type=Check | Fetch)
    news: SimpleQueue[Neighbours] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines, news), daemon=True).start()
    try:
        say(_do(errand, news))
    except UpdateRefused as error:
        say(Ended("refused", str(error)))
    except UpdateFailed as error:
        say(Ended("failed", str(error)))
    except UpdateTroubled as error:
        say(Ended("troubled", str(error), error.after_ms))
    except AgentError as error:  # the disk: it may be better later
        say(Ended("troubled", str(error)))
    return 0


def say(what: Said) -> None:
    """Tells the daemon."""
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


def _do(errand: Check | Fetch, news: SimpleQueue[Neighbours]) -> Ended:
    record = Record(Path(errand.folder))
    try:
        if isinstance(errand, Check):
            from agent.update.checking import check  # brings python-tuf, which fetching must not pay for

            return check(errand, record, say)
        from agent.update.fetching import fetch

        return asyncio.run(fetch(errand, record, say, news))
    finally:
        record.close()


def _listen(lines: Iterator[bytes], news: SimpleQueue[Neighbours]) -> None:
    for line in lines:
        news.put(msgspec.json.decode(line, type=Neighbours))
    os._exit(1)  # the daemon is gone


def _lines() -> Iterator[bytes]:
    """What the daemon says. Not through the buffer of `sys.stdin`: a thread that waits in there lets no process end."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), 64 * 1024):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


if __name__ == "__main__":
    sys.exit(main())
