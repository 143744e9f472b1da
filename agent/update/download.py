"""An object on its way: which parts of it are still to be asked for, and what came."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agent.update.plan import Step
from agent.update.sources import Source, Sources
from contract.release import Source as Form

# Parts of one object go over several connections, so a kill costs a few parts and not as many segments. Four of them on
# their way fill 100 Mbit/s over 80 ms. Larger ones cost more than a segment for each kill (docs/adr/0064).
PART_BYTES: Final = 256 * 1024


@dataclass(eq=False)
class Download:
    """The object that a step is made from, in one of its forms. `alone`: all of it from one source, so that it is known
    whose it is. `is_lost`: the only source that it was asked of does not give it.
    """

    step: Step
    form: Form
    sources: Sources
    alone: bool = False
    is_lost: bool = False
    content: bytearray = field(init=False)
    parts: deque[tuple[int, int]] = field(init=False)
    num_running: int = 0
    senders: set[Source] = field(default_factory=set)

    def __post_init__(self) -> None:
        size = self.form.bytes
        self.content = bytearray(size)
        length = size if self.alone else PART_BYTES
        self.parts = deque((start, min(start + length, size)) for start in range(0, size, length))

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to come."""
        return not self.parts and not self.num_running
