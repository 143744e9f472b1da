"""Renewing the certificate while the daemon runs.

The work is done by a process of its own, `shoal-agent renew`: the libraries for it would stay in the daemon's memory
for ever, for one request in half a week.
"""

import asyncio
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from agent.clock import Clock
from agent.errors import EnrolmentError
from agent.identity import Identity, load_identity
from agent.store.facts import Facts

log = structlog.get_logger()

LOOK_S: Final = 600
# The broker does not say why it hangs up. After this long without it, the certificate may be the reason.
CUT_OFF_S: Final = 900.0
RENEWED_WITHIN_S: Final = 90.0
SEEN_FACT: Final = "clock_ms"
# The command, without the console script, which may not be in the PATH of a service.
COMMAND: Final = (sys.executable, "-c", "from agent.cli import main; main()", "renew", "--folder")


class Renewal:
    """Looks now and then whether the certificate is due, and keeps the device's clock honest."""

    def __init__(
        self,
        folder: Path,
        facts: Facts,
        *,
        system_ms: Callable[[], int],
        monotonic_s: Callable[[], float],
        connected: Callable[[], bool],
    ) -> None:
        self._folder = folder
        self._facts = facts
        self._monotonic_s = monotonic_s
        self._connected = connected
        self._connected_at_s = monotonic_s()
        self._said = ""
        self.clock = Clock(int(facts.get(SEEN_FACT) or 0), system_ms=system_ms, monotonic_s=monotonic_s)
        self.identity: Identity | None = None
        self._due_ms = 0.0
        self._load(just_now=False)
        if not self.check_time:
            log.warning("the system's clock is wrong; certificates are not checked by it", clock_ms=system_ms())

    @property
    def is_due(self) -> bool:
        """Whether the certificate should be renewed now."""
        cut_off = self._monotonic_s() - self._connected_at_s > CUT_OFF_S
        return self.identity is not None and (cut_off or self.clock.now_ms() >= self._due_ms)

    @property
    def check_time(self) -> bool:
        """Whether the dates of certificates can be checked. Only the fleet's own root is trusted without."""
        return self.identity is None or self.clock.is_credible

    async def look(self) -> None:
        """Renews when it is due. Called every `LOOK_S`."""
        if self.identity is None:
            return
        if self._connected():
            self._connected_at_s = self._monotonic_s()
        if self.is_due:
            await self._renew()
        await self._keep_time()

    async def learn_signed(self, issued_ms: int) -> None:
        """Takes the date of a document of the controller as a floor of the time, also for later runs."""
        self.clock.learn_signed(issued_ms)
        await self._keep_time()

    async def _keep_time(self) -> None:
        await self._facts.put(SEEN_FACT, str(self.clock.now_ms()))

    async def _renew(self) -> None:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, str(self._folder), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            _, said = await asyncio.wait_for(process.communicate(), RENEWED_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            said = b"it took too long"
        if process.returncode == 0:
            self._load(just_now=True)
            self._said = ""
            log.info("certificate renewed", expires_ms=self.identity.expires_ms if self.identity else None)
            return
        lines = said.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else "it ended without a word"
        if why != self._said:  # once per reason, not every ten minutes
            self._said = why
            log.warning("certificate not renewed; trying again", why=why)

    def _load(self, *, just_now: bool) -> None:
        try:
            self.identity = load_identity(self._folder)
        except EnrolmentError as error:
            log.error("cannot renew the certificate", why=str(error))
            self.identity = None
        if self.identity is not None:
            self.clock.learn(self.identity.issued_ms, self.identity.expires_ms, just_now=just_now)
            self._due_ms = self.identity.renewal_ms(random.random())
