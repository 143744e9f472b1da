"""What goes to the terminal, and what must not.

Answers and cards come from elsewhere. On a terminal their control characters could move the cursor, change
the title or worse, so there they are taken out; a pipe gets every byte.
"""

import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 control characters except tab and line feed, and the marks that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

PIPE_COLUMNS = 240


def visible(text: str) -> str:
    """`text` without control characters."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """`text` on one line, without control characters."""
    return visible(" ".join(text.split()))


def write(text: str, *, end: str = "\n") -> None:
    """Writes to standard output at once."""
    sys.stdout.write((visible(text) if sys.stdout.isatty() else text) + end)
    sys.stdout.flush()


def complain(text: str) -> None:
    """Writes one sentence to standard error."""
    sys.stderr.write(f"fleet: {one_line(text)}\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Writes one warning to standard error."""
    complain(f"warning: {text}")


def console(stream: TextIO) -> "Console":
    """A rich console: colours and the terminal's width on a terminal, plain long lines elsewhere."""
    from rich.console import Console

    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else PIPE_COLUMNS,
    )
