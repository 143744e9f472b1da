"""The controller with 10,000 nodes: its memory, its processor time, gaps, answers, deaths, and a broker that restarts.

Real: `fleet init` with its mosquitto configuration, changed as docs/fleet.md says for a large fleet (it saves every
10 s and not at each change), a mosquitto process, `fleet serve` as a process of its own, SQLite.
Simulated: the nodes (bench/crowd.py says what of them is not as in a node). They come in through a listener that is
added to the configuration: plain TCP on loopback and without an access list, because 10,000 TLS handshakes would
measure elliptic curves on the two cores that the load shares with broker and controller. The controller itself
connects as always: TLS, its certificate, MQTT 5.

What the controller shows is read from its database, where it writes each second: times are up to a second too long.
"""

import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import psutil

from bench.report import RUNS, Report
from contract.presence import NodeState
from fleet.controller import now_ms
from fleet.mosquitto import CONFIG_FILE
from fleet.series import Series
from tests.fakes.controller import ControllerProcess
from tests.fakes.mosquitto import find_mosquitto, free_port

LISTENER = """
listener {port} 127.0.0.1
allow_anonymous true
"""
LARGE_FLEET = (
    ("autosave_on_changes true", "autosave_on_changes false"),
    ("autosave_interval 1\n", "autosave_interval 10\n"),
)
QUERY = "site=store-7 and ram_mib<4096 and not online"
PATIENCE_S = 300.0
LOOK_S = 0.25
UNWELL = 3  # the exit code of a command that shows a fleet in which something is not well


class Plan(msgspec.Struct, frozen=True):
    """How much is measured."""

    num_nodes: int = 10_000
    keepalive_s: int = 60
    telemetry_s: float = 30.0
    per_s: int = 500
    window_s: float = 60.0
    num_deaths: int = 50
    num_commands: int = 10


QUICK = Plan(num_nodes=1000, keepalive_s=16, telemetry_s=8.0, window_s=5.0, num_deaths=20, num_commands=RUNS)


def run(report: Report, *, quick: bool) -> None:
    """Measures."""
    plan = QUICK if quick else Plan()
    with tempfile.TemporaryDirectory() as place:
        scene = Scene(Path(place), plan)
        try:
            scene.begin()
            _measure(scene, plan, report)
        finally:
            scene.end()


def _measure(scene: "Scene", plan: Plan, report: Report) -> None:
    nodes = f"{plan.num_nodes} nodes, telemetry every {plan.telemetry_s:g} s"
    cpu, pss, broker = scene.watch(plan.window_s)
    report.add("controller_cpu_percent", f"controller's processor time, of one core; {nodes}", "%", cpu, 50)
    report.add("controller_mib", f"controller's memory (PSS); {nodes}", "MiB", pss, 250)
    report.add("broker_cpu_percent", f"mosquitto's processor time, of one core; {nodes}", "%", broker)
    status, query = scene.answer_times(plan.num_commands)
    report.add("status_ms", f"the whole command `fleet status`; {plan.num_nodes} nodes", "ms", status, 300)
    report.add("query_ms", f"the whole command `fleet nodes '{QUERY}'`; {plan.num_nodes} nodes", "ms", query, 300)
    stops = scene.departures("leave", "offline", plan.num_deaths)
    report.add("stop_seen_s", "clean stop to shown; up to 1 s of it is the database's", "s", stops)
    deaths = scene.departures("freeze", "lost", plan.num_deaths)
    report.add(
        "death_seen_over_keepalive",
        f"silence (socket open, at any time between two messages) to shown, over {plan.keepalive_s} s of keep-alive",
        "",
        [death / plan.keepalive_s for death in deaths],
        1.5,
    )
    gaps = "batches sent that the controller has not, of all that was sent up to here"
    report.add("telemetry_gaps", gaps, "", [scene.gaps()], 0)
    late = "how late the load program was at worst up to here: seconds here mean that the machine did not keep up"
    report.add("load_late_s", late, "s", [scene.tell(do="talk")["late_s"]])
    back, attempts = scene.restart_broker()
    report.add("reconnect_all_s", f"broker restarted to all present again; {plan.num_nodes} nodes", "s", [back], 60)
    report.add("reconnect_attempts", "attempts to connect for each node, in the agent's jitter", "", [attempts])


class Scene:
    """Controller, broker and crowd."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self._plan = plan
        self._controller = ControllerProcess(place)
        self._config = self._controller.folder.broker / CONFIG_FILE
        self._log = place / "crowd.log"
        self._port = free_port()
        config = self._config.read_text("utf-8")
        for before, after in LARGE_FLEET:
            config = config.replace(before, after)
        self._config.write_text(config + LISTENER.format(port=self._port), "utf-8")
        self._broker: subprocess.Popen[bytes] | None = None
        self._crowd: subprocess.Popen[str] | None = None
        self._gone: set[str] = set()

    def begin(self) -> None:
        """Starts everything, and waits until all nodes are present."""
        self._start_broker()
        self._controller.start("--no-embedded-broker")
        _until(lambda: bool((self._controller.health() or {}).get("healthy")), "a healthy controller")
        plan = self._plan
        words = [str(self._port), str(plan.num_nodes), str(plan.keepalive_s), str(plan.telemetry_s)]
        self._crowd = subprocess.Popen(
            [sys.executable, "-m", "bench.crowd", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.tell(do="connect", per_s=plan.per_s)
        _until(lambda: self._num_online(0) == plan.num_nodes, "presence of all nodes")

    def end(self) -> None:
        """Ends everything."""
        if self._crowd:
            self._crowd.kill()
            self._crowd.wait()
        self._controller.stop()
        if self._broker:
            self._broker.kill()
            self._broker.wait()

    def tell(self, **command: Any) -> dict[str, Any]:
        """Has the crowd do something."""
        crowd = cast("subprocess.Popen[str]", self._crowd)
        lines, answers = cast(IO[str], crowd.stdin), cast(IO[str], crowd.stdout)
        lines.write(json.dumps(command) + "\n")
        lines.flush()
        return dict(json.loads(answers.readline()))

    def watch(self, window_s: float) -> tuple[list[float], list[float], list[float]]:
        """In parts of a while: the controller's processor time (% of a core) and memory (MiB), the broker's time."""
        controller, broker = psutil.Process(self._controller.pid), psutil.Process(self._running_broker.pid)
        cpu, pss, of_broker = [], [], []
        for _ in range(RUNS):
            before = [sum(process.cpu_times()[:2]) for process in (controller, broker)]
            time.sleep(window_s / RUNS)
            after = [sum(process.cpu_times()[:2]) for process in (controller, broker)]
            used = [100 * (end - start) / (window_s / RUNS) for start, end in zip(before, after, strict=True)]
            cpu.append(used[0])
            of_broker.append(used[1])
            pss.append(controller.memory_full_info().pss / 2**20)
        return cpu, pss, of_broker

    def answer_times(self, count: int) -> tuple[list[float], list[float]]:
        """Times of whole commands, from starting the program to its end, in ms: `fleet status`, `fleet nodes QUERY`."""
        times = [(self._command_ms("status"), self._command_ms("nodes", QUERY)) for _ in range(count)]
        return [status for status, _ in times], [query for _, query in times]

    def _command_ms(self, *words: str) -> float:
        started = time.perf_counter()
        ended = self._controller.fleet(*words)
        if ended.returncode not in (0, UNWELL):
            raise RuntimeError(f"cannot measure: fleet {' '.join(words)} ended with {ended.returncode}: {ended.stderr}")
        return (time.perf_counter() - started) * 1000

    def departures(self, how: str, state: str, count: int) -> list[float]:
        """Nodes go; for each, seconds until that is shown."""
        told = self.tell(do=how, count=count)
        waiting, seen = set(told["nodes"]), list[float]()
        self._gone |= waiting
        while waiting:
            shown = {node for node, status in self._statuses().items() if status.s == state} & waiting
            seen += [time.time() - told["at"]] * len(shown)
            waiting -= shown
            if time.time() - told["at"] > PATIENCE_S:
                raise RuntimeError(f"{len(waiting)} nodes are not shown as {state}")
            time.sleep(LOOK_S)
        return seen

    def restart_broker(self) -> tuple[float, float]:
        """Seconds until every node that was there is present again, and attempts for each."""
        before = self.tell(do="talk")["attempts"]
        self._running_broker.send_signal(signal.SIGTERM)
        self._running_broker.wait(PATIENCE_S)
        stopped_ms, started = now_ms(), time.monotonic()
        self._start_broker()
        here = self._plan.num_nodes - len(self._gone)
        _until(lambda: self._num_online(stopped_ms) == here, "presence of all nodes again")
        back = time.monotonic() - started
        return back, (self.tell(do="talk")["attempts"] - before) / here

    def gaps(self) -> float:
        """Batches that were sent and are not in the database, however the controller counts."""
        sent: dict[str, int] = self.tell(do="quiet")["sent"]

        def missing() -> int:
            with self._read() as database:
                rows = database.execute("SELECT node, series FROM series WHERE kind = 'sys'").fetchall()
            taken = {node: msgspec.json.decode(series, type=Series) for node, series in rows}
            gaps = sum(series.num_gaps for series in taken.values())
            return gaps + sum(count - taken[node].next_seq if node in taken else count for node, count in sent.items())

        deadline = time.monotonic() + 10
        while missing() and time.monotonic() < deadline:
            time.sleep(0.2)
        return missing()

    def _start_broker(self) -> None:
        log = self._config.with_name("mosquitto.log").open("ab")
        command = [find_mosquitto(), "-c", str(self._config)]
        self._broker = subprocess.Popen(command, stdout=log, stderr=log)

    @property
    def _running_broker(self) -> "subprocess.Popen[bytes]":
        return cast("subprocess.Popen[bytes]", self._broker)

    def _num_online(self, since_ms: int) -> int:
        return sum(status.s == "online" and status.sess >= since_ms for status in self._statuses().values())

    def _statuses(self) -> dict[str, NodeState]:
        with self._read() as database:
            rows = database.execute("SELECT node, status FROM nodes WHERE status IS NOT NULL").fetchall()
        return {node: msgspec.json.decode(status, type=NodeState) for node, status in rows}

    def _read(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self._controller.path / 'fleet.db'}?mode=ro", uri=True)


def _until(look: Callable[[], bool], what: str) -> None:
    """Looks now and then: each look reads all nodes from the database, on the cores that are measured."""
    deadline = time.monotonic() + PATIENCE_S
    while not look():
        if time.monotonic() > deadline:
            raise RuntimeError(f"cannot measure: no {what} within {PATIENCE_S:g} s")
        time.sleep(LOOK_S)
