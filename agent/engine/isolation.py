"""What the engine's process cannot do, because prompts, model files and llama.cpp's parsers meet in it.

It has no network, leaves no core file, gets no rights that it did not start with, sees no variable that it does not
need, dies with its daemon, and is what the kernel takes first when memory runs out. All of it works without root.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

# From linux/prctl.h, linux/sched.h and linux/capability.h; Python has names for none of them before 3.12.
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CAPABILITY_VERSION_3 = 0x20080522

MAX_FILES = 512
MAX_THREADS = 4096  # where they are counted for this process alone
OOM_SCORE_STEP = 500  # of 1000: above every process that is not marked itself

# What of its parent's environment the engine gets: where programs, libraries and its cache are, and settings of OpenMP
# and ggml.
PASSED = {"CACHE_DIRECTORY", "HOME", "LANG", "PATH", "TMPDIR", "TZ"}
PASSED_PREFIXES = ("GGML_", "GOMP_", "LC_", "LD_", "LLAMA_", "MALLOC_", "OMP_", "PYTHON")


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The engine's environment, made from the daemon's; OpenMP and ggml read theirs when they load."""
    passed = {name: text for name, text in environ.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}
    return {
        # Threads that wait spin this often before they sleep. Endless spinning, the default, falls to 8 % of the
        # speed when the device has other work; not spinning at all costs two thirds on an idle one.
        "GOMP_SPINCOUNT": "1000",
        **passed,
        "GGML_NO_BACKTRACE": "1",  # an abort would otherwise try to run a debugger
        # numpy starts threads when it is imported, which nothing here needs; and with them there is no way into a
        # user namespace.
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def isolate() -> bool:
    """Isolates this process for good. To be called before there are threads. Returns whether it lost the network.

    What the system refuses is left out: an engine with a network is better than none.
    """
    # Ctrl-C and many service managers signal every process of a group; what runs may still end while the daemon drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _limit(resource.RLIMIT_CORE, 0)  # it would hold prompts
    _limit(resource.RLIMIT_NOFILE, MAX_FILES)
    with contextlib.suppress(OSError, ValueError):  # before the user namespace, in which /proc/self is not ours
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text("utf-8")) + OOM_SCORE_STEP)), "utf-8")
    libc = ctypes.CDLL(None, use_errno=True)
    isolated = _leave_network(libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # at the end: a change of rights takes it back
    if os.getppid() == 1:  # the daemon died before the line above could tie us to it
        sys.exit(0)
    return isolated


def limit_address_space(limit_bytes: int) -> None:
    """From now on what would need more fails, in this process alone; 0: no limit."""
    if limit_bytes:
        _limit(resource.RLIMIT_AS, limit_bytes)


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Moves to a network of its own, in which there is nothing; root needs no user namespace for that."""
    if interfaces(Path("/proc/self/net/dev")) <= {"lo"}:  # systemd's PrivateNetwork= was there first
        return True
    if len(list(Path("/proc/self/task").iterdir())) > 1:  # the others would stay outside
        return False
    if libc.unshare(CLONE_NEWNET) == 0:
        return True
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        return False
    # A namespace of one's own comes with all rights in it. They would open parts of the kernel that are closed to
    # others, such as packet filters.
    libc.capset(
        (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0),  # of this process
        (ctypes.c_uint32 * 6)(),  # none: effective, permitted, inheritable, in two words each
    )
    _limit(resource.RLIMIT_NPROC, MAX_THREADS)
    return True


def interfaces(dev: Path) -> set[str]:
    """The network interfaces in a file of the form of /proc/net/dev; one that cannot be read has an unknown one."""
    try:
        return {line.partition(":")[0].strip() for line in dev.read_text("utf-8").splitlines()[2:]}
    except OSError:
        return {"?"}


def _limit(what: int, most: int) -> None:
    """Lowers a limit. One that is lower already stays."""
    limits = [min(most, limit) if limit != resource.RLIM_INFINITY else most for limit in resource.getrlimit(what)]
    resource.setrlimit(what, (limits[0], limits[1]))
