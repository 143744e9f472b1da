"""What an engine could do: runs in the place of one, with its unit's directives, and prints what it found as JSON."""

import ctypes
import json
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

TRIED: dict[str, Callable[[], object]] = {
    "internet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "unix": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "write to models": lambda: Path("/var/lib/shoal/models/x").write_text("x"),
    "write to the system": lambda: Path("/usr/x").write_text("x"),
    "write to the configuration": lambda: Path("/etc/x").write_text("x"),
    "read the configuration": lambda: Path("/etc/shoal/agent.toml").read_text(),
    "read the identity": lambda: Path("/var/lib/shoal/identity/identity.pem").read_text(),
    "read the journal": lambda: Path("/var/lib/shoal/agent.db").read_bytes(),
    "namespaces": lambda: _check(ctypes.CDLL(None, use_errno=True).unshare(0x10000000)),
    "trace": lambda: _check(ctypes.CDLL(None, use_errno=True).ptrace(16, 1, 0, 0)),
    "machine code": lambda: _check(_map(4096, 7)),
    "core files": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1)),
}


def main() -> None:
    """Tries everything."""
    found = {
        "interfaces": [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]],
        "state": sorted(os.listdir("/var/lib/shoal")),  # noqa: PTH208  # names alone
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "tried": sorted(TRIED),
        "refused": sorted(name for name, attempt in TRIED.items() if _is_refused(attempt)),
    }
    print(json.dumps(found))  # noqa: T201  # what it is for


def _is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, ValueError):
        return True
    return False


def _map(size: int, protection: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_ssize_t
    return int(libc.mmap(None, size, protection, 0x22, -1, 0))  # private and anonymous


def _check(result: int) -> None:
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    main()
