"""How an engine's process died, and whether what it was doing may be to blame. Pure."""

import signal
from enum import Enum

# How a process ends that ran machine code its processor or system does not take, or that found itself at fault.
CRASH_CODES = {
    -signal.SIGILL, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGABRT, -signal.SIGSYS, -signal.SIGTRAP,
}  # fmt: skip
EXIT_FAILED = 70  # the engine's own word for "an error that nothing in it handles"


class Death(Enum):
    """How a process died."""

    CRASH = "crash"  # by the signal of a fault in its code, or by an error of its own
    STALL = "stall"  # it hung and was replaced
    NONSENSE = "nonsense"  # it broke the protocol and was replaced
    KILLED = "killed"  # by SIGKILL or the like: the kernel had no memory left, or somebody ended it
    ENDED = "ended"  # it left without a fault

    @property
    def is_fault(self) -> bool:
        """Whether what ran may be to blame. A lack of memory is the machine's fault, not the request's."""
        return self in (Death.CRASH, Death.STALL, Death.NONSENSE)


def death_of(code: int | None) -> Death:
    """What an exit code says; negative ones are signals."""
    if code in CRASH_CODES or code == EXIT_FAILED:
        return Death.CRASH
    return Death.KILLED if code is not None and code < 0 else Death.ENDED
