"""A real mosquitto on a free port, with the settings that the field needs."""

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

# user: started by root it would become a user who cannot read and write here; others it concerns not at all.
# tcp_nodelay: a QoS 1 round trip is 88 ms without. autosave: a kill -9 loses what was queued without.
SETTINGS = """
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 100000
user root
"""


def find_mosquitto() -> str:
    """The program's path. Debian keeps it where ordinary users do not look."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise RuntimeError("cannot find mosquitto; install it with `apt-get install mosquitto mosquitto-clients`")
    return found


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Mosquitto:
    """A broker process that can be stopped, killed and started again on the same port."""

    host = "127.0.0.1"

    def __init__(self, folder: Path, port: int = 0, extra: str = "") -> None:
        self.folder = folder
        self.port = port or free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(SETTINGS.format(port=self.port, folder=folder) + extra)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Mosquitto":
        """Starts it and waits until it listens."""
        command = [find_mosquitto(), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection((self.host, self.port), 1).close()
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.01)
            else:
                return self
        raise RuntimeError("mosquitto does not start")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        if self._process:
            self._process.send_signal(number)

    def reload(self) -> None:
        """Lets it read its passwords again."""
        if self._process:
            self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """From now on it says nothing, while its connections stand."""
        if self._process:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends that."""
        if self._process:
            self._process.send_signal(signal.SIGCONT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None
