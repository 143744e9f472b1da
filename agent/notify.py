"""What systemd hears of the daemon: that it is ready, lives and ends. Nothing where systemd did not ask."""

import contextlib
import socket
from collections.abc import Callable, Mapping

import structlog

log = structlog.get_logger()

BEATS_IN_TIME = 3  # one that is late, on a busy device, is no reason to be killed


class Notifier:
    """Speaks sd_notify(3): one datagram a message, to the socket that the environment names."""

    def __init__(self, environ: Mapping[str, str], *, is_alive: Callable[[], bool]) -> None:
        """Without `is_alive` no beat is sent, and systemd replaces the daemon with all that hangs in it."""
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        # The time is in microseconds. It is meant for this process alone, if it names one, but execv keeps the number.
        self.beat_s = int(environ.get("WATCHDOG_USEC", "0")) / 1e6 / BEATS_IN_TIME if self._address else 0.0
        self._is_alive = is_alive

    def ready(self) -> None:
        """The daemon takes requests; models may still be loading."""
        self._say("READY=1")

    def stopping(self) -> None:
        """It ends, in its own time."""
        self._say("STOPPING=1")

    async def beat(self) -> None:
        """It lives. To be called every `beat_s` in the event loop, so that a loop that hangs is noticed as well."""
        if self._is_alive():
            self._say("WATCHDOG=1")
        else:
            log.error("an engine's supervision hangs; the watchdog is not fed")

    def _say(self, text: str) -> None:
        if self._address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(text.encode(), self._address)
