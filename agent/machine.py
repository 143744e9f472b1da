"""What this machine has for us, with the limits of every control group that this process is in."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def available_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Bytes that could be taken now without swapping: the least of the system's and the control groups' figures."""
    return max(0, min([_system(proc), *_groups(proc, cgroups)]))


def anonymous_bytes(pid: int, proc: Path = PROC) -> int:
    """Bytes that a process has taken beside mapped files; 0 when it is gone."""
    try:
        fields = (proc / str(pid) / "statm").read_text("ascii").split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _system(proc: Path) -> int:
    fields = _numbers(proc / "meminfo", ":")
    # Kernels before 3.14 have no MemAvailable.
    return 1024 * fields.get("MemAvailable", fields.get("MemFree", 0) + fields.get("Cached", 0))


def features(proc: Path = PROC) -> frozenset[str]:
    """What the processor can, as the kernel names it: "avx2" on x86-64, "asimddp" on aarch64."""
    try:
        lines = (proc / "cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "").split()
    )


def num_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Cores that this process may use at once: those it may run on, and no more than its quota of time pays for."""
    shares = [len(os.sched_getaffinity(0)), *_quotas(proc, cgroups)]
    return max(1, math.ceil(min(shares)))


def _quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    for folder in _folders(proc, cgroups, "cpu"):
        words = words_in(folder / "cpu.max")
        quota, period = number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us")
        if len(words) == 2 and words[0].isdigit():  # quota and period
            quota, period = int(words[0]), int(words[1])
        if quota and period and quota > 0:
            yield quota / period


def _groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What is left below the limit of each group."""
    for folder in _folders(proc, cgroups, "memory"):
        stat = _numbers(folder / "memory.stat", " ")
        for limits, usage, prefix in (
            (("memory.max", "memory.high"), "memory.current", ""),
            (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
        ):
            # Files that the group has in its cache go when memory is asked for.
            files = stat.get(f"{prefix}inactive_file", 0) + stat.get(f"{prefix}active_file", 0)
            used = number_in(folder / usage)
            for limit in (number_in(folder / name) for name in limits):
                if limit is not None and used is not None:
                    yield limit - used + files


def _folders(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """The folders of each group from ours up to the root, of version 1 for a controller, of version 2 for all."""
    try:
        lines = (proc / "self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _upwards(cgroups, path)
        elif controller in controllers.split(","):
            yield from _upwards(cgroups / controller, path)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    folder = root / path.lstrip("/")
    if not folder.is_dir():
        folder = root  # in a container the path can be the host's, while the mount begins at the container's group
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def words_in(file: Path) -> list[str]:
    """The words in a file; none for no file."""
    try:
        return file.read_text("ascii").split()
    except (OSError, ValueError):
        return []


def number_in(file: Path) -> int | None:
    """The number in a file; None for `max`, for anything else, and for no file."""
    try:
        return int(file.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _numbers(file: Path, separator: str) -> dict[str, int]:
    """Lines of a name and a number, which a unit may follow."""
    found = {}
    try:
        for line in file.read_text("ascii").splitlines():
            name, _, rest = line.partition(separator)
            words = rest.split()
            if words and words[0].isdigit():
                found[name] = int(words[0])
    except (OSError, ValueError):
        pass
    return found
