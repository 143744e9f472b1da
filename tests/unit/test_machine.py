"""What the machine has left, read from trees like the kernel's."""

import os
from pathlib import Path

import pytest

from agent.machine import anonymous_bytes, available_bytes, num_cores

KIB, MIB = 2**10, 2**20
UNLIMITED_V1 = 9223372036854771712


def tree(folder: Path, files: dict[str, str]) -> Path:
    """Writes files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def machine(tmp_path: Path, cgroup: str, groups: dict[str, str]) -> int:
    """What is available with 1000 MiB in the system."""
    meminfo = f"MemTotal: {2000 * KIB} kB\nMemFree: 9 kB\nMemAvailable: {1000 * KIB} kB\nHugePages_Total: 0\n"
    proc = tree(tmp_path / "proc", {"meminfo": meminfo, "self/cgroup": cgroup})
    return available_bytes(proc, tree(tmp_path / "cgroup", groups))


def test_without_limits_it_is_the_systems_figure(tmp_path: Path) -> None:
    """MemAvailable."""
    assert machine(tmp_path, "0::/\n", {"cgroup.procs": "1\n"}) == 1000 * MIB


@pytest.mark.parametrize("limit", ["memory.max", "memory.high"])
def test_limit_of_version_2_counts(tmp_path: Path, limit: str) -> None:
    """What is below it, plus the group's cached files."""
    groups = {
        f"system.slice/shoal.service/{limit}": f"{300 * MIB}\n",
        "system.slice/shoal.service/memory.current": f"{200 * MIB}\n",
        "system.slice/shoal.service/memory.stat": f"anon 5\ninactive_file {20 * MIB}\nactive_file {30 * MIB}\n",
        "system.slice/memory.max": "max\n",
        "system.slice/memory.current": f"{700 * MIB}\n",
    }
    assert machine(tmp_path, "0::/system.slice/shoal.service\n", groups) == 150 * MIB


def test_limit_of_a_group_further_up_counts(tmp_path: Path) -> None:
    """The least of all groups from ours to the root."""
    groups = {
        "a/b/memory.max": "max\n",
        "a/b/memory.current": "0\n",
        "a/memory.max": f"{100 * MIB}\n",
        "a/memory.current": f"{40 * MIB}\n",
    }
    assert machine(tmp_path, "0::/a/b\n", groups) == 60 * MIB


def test_limit_of_version_1_counts(tmp_path: Path) -> None:
    """Under its own names; its figure for no limit is no limit."""
    groups = {
        "memory/a/memory.limit_in_bytes": f"{256 * MIB}\n",
        "memory/a/memory.usage_in_bytes": f"{56 * MIB}\n",
        "memory/a/memory.stat": f"inactive_file 1\ntotal_inactive_file {10 * MIB}\ntotal_active_file {2 * MIB}\n",
        "memory/memory.limit_in_bytes": f"{UNLIMITED_V1}\n",
        "memory/memory.usage_in_bytes": f"{1500 * MIB}\n",
    }
    assert machine(tmp_path, "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n", groups) == 212 * MIB


def test_path_of_the_host_in_a_container(tmp_path: Path) -> None:
    """The mount begins at the container's group there, so its root has the limit."""
    groups = {"memory.max": f"{64 * MIB}\n", "memory.current": f"{14 * MIB}\n"}
    assert machine(tmp_path, "0::/docker/0123\n", groups) == 50 * MIB


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    """Never less than nothing."""
    groups = {"memory.max": "1000\n", "memory.current": "5000\n"}
    assert machine(tmp_path, "0::/\n", groups) == 0


def test_this_machine_has_something_left() -> None:
    """The real files are read too."""
    assert available_bytes() > 0


def test_anonymous_memory_of_a_process(tmp_path: Path) -> None:
    """Resident less shared pages; a process that is gone has none."""
    proc = tree(tmp_path, {"7/statm": "1000 300 100 1 0 500 0\n"})
    assert anonymous_bytes(7, proc) == 200 * 4096
    assert anonymous_bytes(8, proc) == 0


@pytest.mark.parametrize(
    ("cgroup", "groups", "share"),
    [
        ("0::/a\n", {"a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "20000 100000\n"}, 0.2),
        ("3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 1.0),
        ("3:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/a\n", {"a/cpu.max": "nonsense\n"}, None),
    ],
)
def test_a_quota_of_time_counts_in_whole_cores(
    tmp_path: Path, cgroup: str, groups: dict[str, str], share: float | None
) -> None:
    """More threads than the quota pays for would only wait for each other."""
    proc = tree(tmp_path / "proc", {"self/cgroup": cgroup})
    cores = len(os.sched_getaffinity(0))
    expected = cores if share is None else min(cores, max(1, -int(-share // 1)))
    assert num_cores(proc, tree(tmp_path / "cgroup", groups)) == expected
