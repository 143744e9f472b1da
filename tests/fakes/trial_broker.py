"""The embedded broker (amqtt, MQTT 3.1.1 only) in a process of its own."""

import signal
import socket
import subprocess
import sys

from tests.fakes.mosquitto import free_port
from tests.fakes.waiting import until


class TrialBroker:
    """A broker without MQTT 5 that can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "TrialBroker":
        """Starts it and waits until it listens."""
        command = [sys.executable, "-m", "fleet.embedded_broker", "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, "embedded broker")
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
