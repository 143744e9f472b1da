"""What fetching releases costs: bytes, memory, and how much of a line is used.

The row `line_use` needs root, for a network namespace with a shaped line; without, it is left out and that is said.
"""

import asyncio
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from agent.models import DEFAULT_FILE
from agent.update import child
from agent.update.errors import UpdateTroubled
from agent.weights.gguf import parse
from agent.weights.gguf_writer import Kind, key
from bench.line import measure_line
from bench.report import Report
from bench.switch import measure as measure_switch
from contract.limits import MAX_SEGMENT_BYTES
from contract.release import File, Release, Segment, Source, object_path
from contract.segments import sha256_of
from fleet.releases.objects import Objects
from tests.fakes.finetune import merge
from tests.fakes.noise import noise
from tests.fakes.release_server import ReleaseServer
from tests.fakes.releases import make_release
from tests.fakes.site_nodes import Bus, SiteNode

MODEL = Path(".shoal/models") / DEFAULT_FILE
ADAPTER = next(iter(sorted(Path("training/adapters").glob("*.gguf"))), None)
MIB = 1 << 20
NUM_NODES = 10


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = ReleaseServer(folder / "releases")
        try:
            _resume(report, folder, server, num_segments=32 if quick else 120, num_kills=5 if quick else 50)
            _site(report, folder, server, num_segments=10 if quick else 24)
            _sizes(report, folder, server, quick=quick)
        finally:
            server.close()
        if os.geteuid() == 0:
            measure_line(report, folder, stored(folder, 8 if quick else 24))
        else:
            print("line_use: left out, it needs root for a network namespace")
    measure_switch(report, quick=quick)


def stored(folder: Path, num_segments: int) -> Release:
    """A release of noise in the largest segments, its objects as they are."""
    segments, objects = [], Objects(folder / "releases")
    whole = folder / "noise"
    with whole.open("wb") as file:
        for number in range(num_segments):
            content = noise(MAX_SEGMENT_BYTES, number)
            digest = sha256_of(content)
            objects.put(digest, content)
            file.write(content)
            source = Source("full", digest, MAX_SEGMENT_BYTES)
            segments.append(Segment(f"{number}", digest, MAX_SEGMENT_BYTES, [source]))
    told = File(sha256_of(whole.read_bytes()), num_segments * MAX_SEGMENT_BYTES)
    return Release(name="noise", version="1", kind="model", file=told, segments=segments, license="MIT", memory_bytes=0)


def _resume(report: Report, folder: Path, server: ReleaseServer, *, num_segments: int, num_kills: int) -> None:
    """The line breaks every 20 MB, one byte flips, and the process that fetches is killed again and again."""
    release = stored(folder, num_segments)
    server.faults.reset_after_bytes = 20_000_000
    server.faults.flip = {object_path(release.segments[2].sha256)}
    server.sent_bytes = 0
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    daemon = context.Process(target=_daemon, args=(folder / "resume", server.url, release, there))
    daemon.start()
    there.close()
    target = here.recv()
    process = psutil.Process(daemon.pid)
    before = peak = pss(process)
    here.send("go")
    every = release.file.bytes // (num_kills + 1)
    kills, until = 0, every
    while daemon.is_alive():
        fetching = children(process)
        peak = max(peak, pss(process) + sum(pss(one) for one in fetching))
        if kills < num_kills and server.sent_bytes >= until and fetching:
            fetching[0].kill()
            fetching[0].wait()
            kills, until = kills + 1, server.sent_bytes + every
        daemon.join(0.02)
    if sha256_of(target.read_bytes()) != release.file.sha256:
        raise AssertionError("the file is not what it should be")
    server.faults.reset_after_bytes = None
    ratio = (server.sent_bytes - kills * MAX_SEGMENT_BYTES) / release.file.bytes
    what = f"bytes sent, less a segment for each of {kills} kills, to the file's"
    report.add("resume_bytes_ratio", what, "", [ratio], 1.05)
    report.add("resume_bytes_plain", "all bytes sent to the file's", "", [server.sent_bytes / release.file.bytes])
    what = "memory (PSS) of the daemon and of the process that fetches, less the daemon's before"
    report.add("resume_memory_growth_mib", what, "MiB", [peak - before], 32)


def _daemon(folder: Path, url: str, release: Release, other: Connection) -> None:
    """What a daemon has and does when it fetches."""
    node = SiteNode(folder, "n1", url, Bus())
    node.allow_neighbours(False)

    async def fetch() -> None:
        while True:
            try:
                return await node.delivery.finish(release, node.target)
            except UpdateTroubled:
                continue  # its process was killed

    other.send(node.target)
    other.recv()
    asyncio.run(fetch())


def _site(report: Report, folder: Path, server: ReleaseServer, *, num_segments: int) -> None:
    release = stored(folder, num_segments)
    server.sent_bytes = 0
    bus = Bus()
    nodes = [SiteNode(folder / f"site{number}", f"n{number}", server.url, bus) for number in range(NUM_NODES)]

    async def fetch() -> None:
        for node in nodes:
            await node.swarm.look()
        await asyncio.gather(*(node.delivery.finish(release, node.target) for node in nodes))

    asyncio.run(fetch())
    ratio = server.sent_bytes / release.file.bytes
    report.add("site_wan_ratio", f"bytes over the line for {NUM_NODES} nodes to the file's", "", [ratio], 1.2)


def _sizes(report: Report, folder: Path, server: ReleaseServer, *, quick: bool) -> None:
    """What a node that has one release fetches of the next."""
    objects = Objects(folder / "releases")
    if ADAPTER is not None:
        adapter = make_release(ADAPTER, objects, kind="adapter", base_sha256=sha256_of(b""), name="adapter")
        before = server.sent_bytes
        for number in range(2 if quick else NUM_NODES):
            _fetch(folder / f"adapter{number}", server, adapter)
        ratio = (server.sent_bytes - before) / (adapter.file.bytes * (2 if quick else NUM_NODES))
        report.add("adapter_update_bytes_ratio", "bytes for an adapter to the adapter's, each node", "", [ratio], 1.0)
    if quick:
        return
    base = make_release(MODEL, objects)
    raw = MODEL.read_bytes()
    changed = {"metadata_edit_ratio": (_edited(raw), 0.02)}
    if ADAPTER is not None:
        changed["finetune_delta_ratio"] = (merge(raw, ADAPTER.read_bytes()), 0.25)
    for row, (content, bar) in changed.items():
        path = folder / f"{row}.gguf"
        path.write_bytes(content)
        release = make_release(path, objects, [base], version="2")
        before = server.sent_bytes
        _fetch(folder / row, server, release, (base, MODEL.resolve()))
        report.add(
            row, "bytes fetched to the file's, the base held", "", [(server.sent_bytes - before) / len(content)], bar
        )


def _edited(raw: bytes) -> bytes:
    """The model with another chat template, of another length."""
    file = parse(raw)
    start, end = file.spans["tokenizer.chat_template"]
    name = "tokenizer.chat_template"
    value = key(name, Kind.STRING, "{{ messages }}" * 9)[8 + len(name) :]
    first = min(tensor.offset for tensor in file.tensors.values())
    table = raw[:start] + value + raw[end:first].rstrip(b"\0")
    return table.ljust(-(-len(table) // 32) * 32, b"\0") + raw[first:]


def _fetch(folder: Path, server: ReleaseServer, release: Release, held: tuple[Release, Path] | None = None) -> None:
    node = SiteNode(folder, "n1", server.url, Bus())
    node.allow_neighbours(False)
    node.held = [held] if held else []
    asyncio.run(node.delivery.finish(release, node.target))
    shutil.rmtree(folder)


def children(daemon: psutil.Process) -> list[psutil.Process]:
    """Processes that fetch for a daemon."""
    found = []
    for one in daemon.children():
        try:
            if child.__name__ in one.cmdline():
                found.append(one)
        except psutil.Error:
            continue  # it has ended
    return found


def pss(process: psutil.Process) -> float:
    """Its memory in MiB, pages that it shares by the share; 0 when it has ended."""
    try:
        return float(process.memory_full_info().pss) / MIB
    except psutil.Error:
        return 0.0
