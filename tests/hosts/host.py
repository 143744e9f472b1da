"""A host: a Debian root with systemd as its first process, in a container, with a network of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

BRIDGE = "shoal0"
GATEWAY = "10.93.7.1"
BOOT_S = 240
PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,python3,python3-apt,ca-certificates,iproute2"


def run(*command: str, timeout: float = 600) -> str:
    """What a command prints; what it says when it fails is in the error."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def make_image(folder: Path, mirror: str) -> Path:
    """A minimal bookworm below `folder`, made once."""
    image = folder / "bookworm"
    if not image.exists():
        fresh = folder / ".bookworm.new"
        run("rm", "-rf", str(fresh))
        folder.mkdir(parents=True, exist_ok=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(fresh), mirror, timeout=1800)
        fresh.rename(image)
    return image


@contextlib.contextmanager
def bridge() -> Iterator[None]:
    """A network between hosts and this machine, and no further."""
    run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        run("ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        yield
    finally:
        run("ip", "link", "delete", BRIDGE)


class Host:
    """One host. It keeps its disk from boot to boot."""

    def __init__(self, name: str, number: int, image: Path, folder: Path, public_key: str, apt_proxy: str) -> None:
        self.name = name
        self.address = f"10.93.7.{number}"
        self.root = folder / name
        self._console = folder / f"{name}.console"
        self._process: subprocess.Popen[bytes] | None = None
        run("cp", "--archive", "--reflink=auto", str(image), str(self.root))
        self._write("etc/hostname", f"{name}\n")
        self._write("etc/hosts", f"127.0.0.1 localhost\n{self.address} {name}\n")
        self._write("etc/apt/apt.conf.d/90proxy", f'Acquire::http::Proxy "{apt_proxy}";\n')
        self._write("root/.ssh/authorized_keys", public_key)
        (self.root / "root/.ssh").chmod(0o700)
        (self.root / "etc/machine-id").write_text("")
        self._make_network()

    def boot(self) -> "Host":
        """Starts it; returns when SSH answers."""
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "--directory", str(self.root), "--machine", self.name, "--boot",
                 "--register=no", "--keep-unit", "--console=read-only",
                 f"--network-namespace-path=/run/netns/{self.name}"],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + BOOT_S
        while True:
            try:
                with socket.create_connection((self.address, 22), 2) as link:
                    link.settimeout(5)
                    if link.recv(3) == b"SSH":
                        return self
            except OSError:
                assert time.monotonic() < until, self._console.read_text(errors="replace")[-2000:]
                assert self._process.poll() is None, self._console.read_text(errors="replace")[-2000:]

    def cut_power(self) -> None:
        """Ends everything on it at once."""
        if self._process is not None:
            self._kill_all()
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """Ends it, and its network."""
        self.cut_power()
        with contextlib.suppress(AssertionError):
            run("ip", "netns", "delete", self.name)

    def pids(self, *words: str) -> list[int]:
        """Processes on this host whose command line has these words, numbered as this machine does."""
        found = []
        for pid in self._all():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if all(word in line for word in words):
                    found.append(pid)
        return found

    def owner(self, pid: int) -> int:
        """The user of one of its processes."""
        return Path(f"/proc/{pid}").stat().st_uid

    def _all(self) -> list[int]:
        """Every process that has this host's network, or one that was made on it: all below its first process."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = (entry / "stat").read_text().rpartition(") ")[2].split()
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        assert self._process is not None
        found, look = [], [self._process.pid]
        while look:
            children = parents.get(look.pop(), [])
            found += children
            look += children
        return found

    def _kill_all(self) -> None:
        # The first process takes all others of its PID namespace with it.
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _make_network(self) -> None:
        near, far = f"v{self.name[:10]}", "host0"
        run("ip", "netns", "add", self.name)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.name)
        run("ip", "link", "set", near, "master", BRIDGE, "up")
        inside = ["ip", "-n", self.name]
        run(*inside, "address", "add", f"{self.address}/24", "dev", far)
        run(*inside, "link", "set", far, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", GATEWAY)

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
