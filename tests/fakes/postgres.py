"""A PostgreSQL of our own: a cluster in a temporary folder, reached through a Unix socket in it."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.fakes.waiting import until

# For tests: nothing here has to survive a power cut.
SETTINGS = ("-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60")


def find_postgres() -> Path:
    """The folder of PostgreSQL's programs. Debian keeps them outside the PATH."""
    places = [Path(found).resolve().parent for name in ["postgres"] if (found := shutil.which(name))]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists():
            return place
    raise RuntimeError("cannot find PostgreSQL; run `python3 bootstrap.py programs`")


class Postgres:
    """A server process and its cluster."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="shoal-pg-"))
        # PostgreSQL does not run as root; its package brings this user.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._programs = find_postgres()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Postgres":
        """Makes the cluster, starts the server, and waits until it answers."""
        data = str(self._folder / "data")
        self._run("initdb", "--pgdata", data, "--username=shoal", "--auth=trust", "--no-sync", "--encoding=UTF8")
        command = [str(self._programs / "postgres"), "-D", data, "-k", str(self._folder), *SETTINGS]
        self._process = subprocess.Popen(
            command, cwd=self._folder, user=self._user, group=self._user, extra_groups=[] if self._user else None,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self._ready, "PostgreSQL")
        return self

    def new_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{next(self._numbers)}"
        self._run("createdb", "--host", str(self._folder), "--username=shoal", name)
        return f"postgresql://shoal@/{name}?host={self._folder}"

    def stop(self) -> None:
        """Ends it and removes the cluster."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        shutil.rmtree(self._folder)

    def _ready(self) -> bool:
        command = [str(self._programs / "pg_isready"), "--quiet", "--host", str(self._folder)]
        return subprocess.run(command, check=False).returncode == 0

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [str(self._programs / program), *words], cwd=self._folder, check=True, capture_output=True, timeout=60,
            user=self._user, group=self._user, extra_groups=[] if self._user else None,
        )  # fmt: skip
