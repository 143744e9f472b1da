"""How the daemon has releases checked and fetched: by child processes, one errand each."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import structlog

from agent.clock import Clock
from agent.config import Updates
from agent.identity import CA_FILE, PEM_FILE, RELEASES_ROOT_FILE, Identity
from agent.update.allowance import allowance
from agent.update.errand import (
    Check,
    Ended,
    Fetch,
    Held,
    Link,
    Neighbours,
    Poisoned,
    Progress,
    Replanned,
    Said,
    manifest_file,
)
from agent.update.errors import UpdateFailed, UpdateRefused, UpdateTroubled
from agent.update.lot import Lot
from contract.release import Release, decode_release

log = structlog.get_logger()

FOLDER: Final = "delivery"  # of the state directory
BUNDLE: Final = "bundle"  # in there, see agent.update.bundle
RELEASES: Final = "/releases/"  # at the controller
EXPIRED_WAIT_MS: Final = 15 * 60_000
MAX_LINE_BYTES: Final = 1 << 20
COMMAND: Final = (sys.executable, "-m", "agent.update.child")


class Delivery:
    """The depot of an enrolled node. One call at a time."""

    def __init__(
        self,
        folder: Path,
        identity_folder: Path,
        *,
        identity: Callable[[], Identity | None],
        settings: Callable[[], Updates],
        clock: Clock,
        held: Callable[[], list[tuple[Release, Path]]],
        on_alert: Callable[[str, dict[str, Any]], None],
        neighbours: Callable[[str], Neighbours | None] = lambda _: None,
        on_lots: Callable[[], None] = lambda: None,
    ) -> None:
        """`held` has the files of releases that are on this node; `on_alert` takes the name and data of an event.

        `neighbours` are those that have or fetch the file with a digest, None when none are to be asked; `on_lots` is
        called when there is something new for them.
        """
        self._folder = folder
        self._identity_folder = identity_folder
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self._held = held
        self._on_alert = on_alert
        self._neighbours = neighbours
        self._on_lots = on_lots
        self._fetching: Fetch | None = None
        self._done: frozenset[int] = frozenset()
        self._child: asyncio.StreamWriter | None = None

    @property
    def lots(self) -> list[Lot]:
        """What this node can hand to neighbours: files that it holds, and what it has of the one that it fetches."""
        lots = [Lot(release, path) for release, path in self._held()]
        if self._fetching is not None:
            lots.append(Lot(self._fetching.release, Path(self._fetching.target), self._done))
        return lots

    def neighbours_changed(self) -> None:
        """There are other neighbours, or they have other files."""
        others = self._neighbours(self._fetching.release.file.sha256) if self._fetching is not None else None
        if others is not None and self._child is not None:
            self._child.write(msgspec.json.encode(others) + b"\n")

    async def check(self, reference: str) -> Release:
        """As `agent.update.depot` has it."""
        has_bundle = (self._folder / BUNDLE).is_dir()
        if self._identity() is None and not self._settings().sources and not has_bundle:
            raise UpdateRefused(f"cannot get {reference}: this node has no source of releases; enrol it")
        root = self._identity_folder / RELEASES_ROOT_FILE
        if not root.exists():
            raise UpdateTroubled(
                f"cannot check {reference}: this node has no root for releases yet; it comes with the next renewal of"
                " its certificate, or when it enrols anew"
            )
        file = manifest_file(self._folder, reference)
        errand = Check(
            folder=str(self._folder),
            root_file=str(root),
            reference=reference,
            now_ms=self._clock.now_ms(),
            link=self._link(),
        )
        await self._send(errand, reference, lambda _: None)
        return decode_release(await asyncio.to_thread(file.read_bytes))

    async def fetch(self, release: Release, target: Path, on_progress: Callable[[float], None]) -> None:
        """As `agent.update.depot` has it."""
        await self._fetch(self._errand(release, target, finish=False), on_progress)

    async def finish(self, release: Release, target: Path) -> None:
        """As `agent.update.depot` has it."""
        await self._fetch(self._errand(release, target, finish=True), lambda _: None)

    async def _fetch(self, errand: Fetch, on_progress: Callable[[float], None]) -> None:
        self._fetching, self._done = errand, frozenset()
        self._on_lots()
        try:
            await self._send(errand, errand.release.reference, on_progress)
        finally:
            self._fetching = None
            self._on_lots()

    def _errand(self, release: Release, target: Path, *, finish: bool) -> Fetch:
        return Fetch(
            folder=str(self._folder),
            release=release,
            target=str(target),
            held=[Held(other, str(path)) for other, path in self._held()],
            link=self._link(),
            allowance=allowance(self._settings(), release, self._clock.now_ms()),
            finish=finish,
            neighbours=self._neighbours(release.file.sha256),
        )

    def _link(self) -> Link:
        identity = self._identity()
        return Link(
            sources=[*([identity.url + RELEASES] if identity else []), *self._settings().sources],
            ca_file=str(self._identity_folder / CA_FILE),
            pem_file=str(self._identity_folder / PEM_FILE),
            check_time=self._clock.is_credible,
            bundle=str(bundle) if (bundle := self._folder / BUNDLE).is_dir() else None,
        )

    async def _send(self, errand: Check | Fetch, reference: str, on_progress: Callable[[float], None]) -> None:
        ended = None
        async with contextlib.aclosing(self._run(errand)) as child:
            async for said in child:
                match said:
                    case Progress(progress=progress, done=done):
                        self._done |= frozenset(done)
                        on_progress(progress)
                    case Ended():
                        ended = said
                    case _:
                        self._tell(reference, said)
        if ended is None:
            raise UpdateTroubled(f"cannot go on with {reference}: the process that works on it ended without a word")
        self._end(reference, ended)

    async def _run(self, errand: Check | Fetch) -> AsyncGenerator[Said, None]:
        """What a child says of its errand. It is killed when nobody listens any more."""
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
        )
        stdin, stdout = cast("asyncio.StreamWriter", process.stdin), cast("asyncio.StreamReader", process.stdout)
        last_words = asyncio.create_task(_tail(cast("asyncio.StreamReader", process.stderr)))
        try:
            stdin.write(msgspec.json.encode(errand) + b"\n")
            with contextlib.suppress(ConnectionError):  # how it died is told below
                await stdin.drain()
            self._child = stdin
            self.neighbours_changed()  # while it was started
            async for line in stdout:
                yield msgspec.json.decode(line, type=Said)
            if words := await last_words:
                log.error("the process for updates failed", last_words=words)
        finally:
            self._child = None
            last_words.cancel()
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    def _tell(self, reference: str, said: Poisoned | Replanned) -> None:
        match said:
            case Poisoned(source=source, why=why):
                log.warning("source is set aside", source=source, why=why)
                self._on_alert("source_poisoned", {"release": reference, "source": source, "reason": why})
            case Replanned(why=why, before_bytes=before, after_bytes=after):
                log.warning("the plan has changed", why=why, before_bytes=before, after_bytes=after)

    def _end(self, reference: str, ended: Ended) -> None:
        match ended.outcome:
            case "refused":
                raise UpdateRefused(ended.why)
            case "failed":
                raise UpdateFailed(ended.why)
            case "troubled":
                raise UpdateTroubled(ended.why, ended.after_ms)
            case "expired":
                self._on_alert("metadata_expired", {"release": reference, "reason": ended.why})
                raise UpdateTroubled(ended.why, EXPIRED_WAIT_MS)


async def _tail(stream: asyncio.StreamReader) -> str:
    """The last line that comes."""
    last = b""
    async for line in stream:
        last = line.strip() or last
    return last.decode(errors="replace")
