"""A line of 100 Mbit/s between two network namespaces, and how much of it fetching uses. Needs root."""

import subprocess
import sys
import time
from pathlib import Path

from bench.report import Report
from contract.release import Release

RATE_MBIT = 100
# Of the line's bytes those of a file: frames of 1,514 bytes carry 1,448.
PAYLOAD = 1448 / 1514
NAME = "shoal-line"
NEAR, FAR = "10.231.77.1", "10.231.77.2"
SERVE = "import sys,time;from pathlib import Path;from tests.fakes.release_server import ReleaseServer;print(ReleaseServer(Path(sys.argv[1]),host=sys.argv[2]).url,flush=True);sys.stdin.read()"  # noqa: E501  # a program


def measure_line(report: Report, folder: Path, release: Release) -> None:
    """Fetches a release, and the same file with curl, over the line."""
    _quietly("ip", "netns", "del", NAME)
    for words in (
        f"ip netns add {NAME}",
        f"ip link add {NAME} type veth peer name far netns {NAME}",
        f"ip addr add {NEAR}/24 dev {NAME}",
        f"ip link set {NAME} up",
        f"ip -n {NAME} addr add {FAR}/24 dev far",
        f"ip -n {NAME} link set far up",
        f"ip netns exec {NAME} tc qdisc add dev far root tbf rate {RATE_MBIT}mbit burst 64kb latency 50ms",
    ):
        subprocess.run(words.split(), check=True)
    # The whole file, for curl.
    (folder / "releases/whole").write_bytes((folder / "noise").read_bytes())
    program = ["ip", "netns", "exec", NAME, sys.executable, "-c", SERVE, str(folder / "releases"), FAR]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip() if server.stdout else ""
            _compare(report, folder, url, release)
        finally:
            server.kill()
            _quietly("ip", "netns", "del", NAME)


def _compare(report: Report, folder: Path, url: str, release: Release) -> None:
    import asyncio

    from tests.fakes.site_nodes import Bus, SiteNode

    ours, curls = [], []
    for number in range(3):
        node = SiteNode(folder / f"line{number}", "n1", url, Bus())
        node.allow_neighbours(False)
        began = time.monotonic()
        asyncio.run(node.delivery.fetch(release, node.target, lambda _: None))
        ours.append(_share(release, time.monotonic() - began))
        began = time.monotonic()
        subprocess.run(["curl", "--silent", "--output", str(folder / "curl"), f"{url}whole"], check=True)
        curls.append(_share(release, time.monotonic() - began))
    report.add("line_use", f"of what {RATE_MBIT} Mbit/s carry, from starting the process", "", ours, at_least=0.95)
    report.add("line_use_curl", "the same file with curl", "", curls)


def _share(release: Release, seconds: float) -> float:
    return release.file.bytes * 8 / 1e6 / seconds / (RATE_MBIT * PAYLOAD)


def _quietly(*words: str) -> None:
    subprocess.run(words, check=False, capture_output=True)
