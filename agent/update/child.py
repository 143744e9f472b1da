"""`python -m agent.update.child`: does one errand, which it reads as a line of JSON, and says how it goes.

It has the heavy libraries, and is the only one that writes `agent.update.record` and the metadata. It may be killed at
any moment, and ends when the daemon does.
"""

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec

from agent.errors import AgentError
from agent.update.errand import Check, Ended, Fetch, Said
from agent.update.errors import UpdateFailed, UpdateRefused, UpdateTroubled
from agent.update.record import Record

NICENESS: Final = 10  # answers come before updates


def main() -> int:
    """Does the errand; the last line says how it ended."""
    os.nice(NICENESS)
    errand = msgspec.json.decode(sys.stdin.buffer.readline(), type=Check | Fetch)
    threading.Thread(target=_end_with_the_daemon, daemon=True).start()
    try:
        say(_do(errand))
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


def _do(errand: Check | Fetch) -> Ended:
    record = Record(Path(errand.folder))
    try:
        if isinstance(errand, Check):
            from agent.update.checking import check  # brings python-tuf, which fetching must not pay for

            return check(errand, record, say)
        from agent.update.fetching import fetch

        return asyncio.run(fetch(errand, record, say))
    finally:
        record.close()


def _end_with_the_daemon() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not through its buffer, which could not be closed meanwhile
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
