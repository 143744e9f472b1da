"""What `shoal-agent doctor` looks at: twenty things that keep a device from answering, each with what to do next.

Each check gets a `Patient` and returns what it found, or raises `Fault`. They are in the order in which one would look:
what is below comes first, because what is above fails with it.
"""

import os
import shutil
import socket
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agent.config import Config, find_config
from agent.control import call
from agent.errors import AgentError, ControlError
from agent.identity import PEM_FILE, Identity, identity_folder, load_identity
from agent.machine import available_bytes
from agent.memory import MIB, budget_bytes
from agent.models import examine_model, find_files, model_folder
from agent.routing import Candidate, choose_default
from agent.store.database import FILE
from agent.watch import DISK_LOW_MIB
from contract.deadlines import CLOCK_FLOOR_MS

TIMEOUT_S = 5.0
ENGINE_PACKAGE = "llama-cpp-python"


class Fault(Exception):
    """Something is wrong: what, and what to do next."""

    def __init__(self, found: str, next_step: str) -> None:
        super().__init__(found)
        self.next_step = next_step


class Patient:
    """A device: its settings, and what its agent says of itself."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state_dir = config.state_dir

    @cached_property
    def status(self) -> dict[str, Any] | None:
        """What the running agent says; None when none answers."""
        try:
            return next((answer["status"] for answer in call(self.state_dir, {"op": "status"}, TIMEOUT_S)), None)
        except (ControlError, KeyError):
            return None

    @property
    def said(self) -> dict[str, Any]:
        """The same, where there is an agent to ask.

        Raises:
            Fault: there is none.
        """
        if self.status is None:
            raise Fault("unknown while the agent does not run", "start it first")
        return self.status

    @cached_property
    def identity(self) -> Identity | None:
        """Who this device is, if it is enrolled."""
        return load_identity(identity_folder(self.state_dir))


def _configuration(patient: Patient) -> str:
    return f"{find_config(None) or 'defaults'}: node {patient.config.node.id} of fleet {patient.config.node.fleet}"


def _state_directory(patient: Patient) -> str:
    folder = patient.state_dir
    if not folder.is_dir():
        raise Fault(f"{folder} is not there", "run the agent once, or set [node] state_dir")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise Fault(f"{folder} is not this user's", "run this as root, or as the agent's user")
    return str(folder)


def _privacy(patient: Patient) -> str:
    mode = stat.S_IMODE(patient.state_dir.stat().st_mode)
    if mode & stat.S_IRWXO:
        raise Fault(f"others may look into {patient.state_dir}", f"chmod o-rwx {patient.state_dir}")
    return f"mode {mode:o}"


def _disk_space(patient: Patient) -> str:
    free_mib = shutil.disk_usage(patient.state_dir).free // MIB
    if free_mib < DISK_LOW_MIB:
        raise Fault(
            f"{free_mib} MiB are free", "delete models and adapters that nobody uses, or lower [store] adapters_mib"
        )
    return f"{free_mib} MiB are free"


def _files_free(patient: Patient) -> str:
    space = os.statvfs(patient.state_dir)
    if space.f_files and space.f_favail < 1000:
        raise Fault(f"{space.f_favail} more files can be made", "delete files; many small ones fill this disk")
    return f"{space.f_favail} more files can be made"


def _database(patient: Patient) -> str:
    file = patient.state_dir / FILE
    if not file.exists():
        return "none yet"
    database = sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=TIMEOUT_S)
    try:
        damage = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    finally:
        database.close()
    if damage != "ok":
        raise Fault(f"{file} is damaged: {damage}", "restart the agent, which moves it aside and makes a new one")
    return f"{file.stat().st_size // 1024} KiB, whole"


def _processor(_: Patient) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    if os.uname().machine == "x86_64" and "avx2" not in cpuinfo:
        raise Fault("this processor has no AVX2", "build the package on a machine like this one")
    return os.uname().machine


def _engine_library(_: Patient) -> str:
    try:
        return f"{ENGINE_PACKAGE} {version(ENGINE_PACKAGE)}"
    except PackageNotFoundError:
        raise Fault(f"{ENGINE_PACKAGE} is not installed", "install the package again") from None


def _model(patient: Patient) -> str:
    models = [examine_model(path) for path in find_files(patient.config)]
    chosen = choose_default(
        [Candidate(model.path, model.name, model.task) for model in models], name=patient.config.model.name
    )
    if not models:
        folder = model_folder(patient.config)
        raise Fault(f"none in {folder}", "shoal-agent models fetch, or wish one of this node: fleet set NODE --model …")
    return ", ".join(f"{model.name}{' (default)' if chosen and model.path == chosen.path else ''}" for model in models)


def _memory(patient: Patient) -> str:
    budget = budget_bytes(patient.config.engine.memory_mib, available_bytes(), 0)
    needs = [
        examine_model(path).need(context_tokens=patient.config.model.context_tokens, parallel=1, batch_tokens=128)
        for path in find_files(patient.config)
    ]
    least = min((need.total_bytes for need in needs), default=0)
    running = patient.status is not None and patient.status["engine"]["state"] == "ready"
    if least > budget and not running:
        raise Fault(
            f"{budget // MIB} MiB for engines, {least // MIB} are needed", "use a smaller model or context_tokens"
        )
    return f"{budget // MIB} MiB for engines"


def _clock(patient: Patient) -> str:
    now_ms = time.time_ns() // 1_000_000
    floor_ms = max(CLOCK_FLOOR_MS, patient.identity.issued_ms if patient.identity else 0)
    if now_ms < floor_ms:
        raise Fault(
            f"it is {(floor_ms - now_ms) // 3_600_000} hours behind what is known", "set it; timedatectl status"
        )
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


def _identity(patient: Patient) -> str:
    if patient.identity is None:
        if patient.config.broker.cert_file:
            raise Fault("not enrolled", "fleet token create, and the line that it prints on this device")
        return "none, and the broker asks for none"
    if patient.identity.id != patient.config.node.id:
        raise Fault(
            f"enrolled as {patient.identity.id}, configured as {patient.config.node.id}",
            "correct [node] id, or enrol again",
        )
    return f"{patient.identity.id} of fleet {patient.identity.fleet}"


def _key(patient: Patient) -> str:
    if patient.identity is None:
        return "none"
    file = identity_folder(patient.state_dir) / PEM_FILE
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Fault(f"others may read {file}", f"chmod 600 {file}; if others use this machine, enrol again")
    return f"mode {mode:o}"


def _certificate(patient: Patient) -> str:
    if patient.identity is None:
        return "none"
    left_h = (patient.identity.expires_ms - time.time_ns() // 1_000_000) / 3_600_000
    if left_h < 0:
        raise Fault(f"expired {-left_h:.0f} hours ago", "shoal-agent renew; after 30 days: a new token")
    return f"{left_h / 24:.1f} days left"


def _broker_name(patient: Patient) -> str:
    host = patient.config.broker.host
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, patient.config.broker.port)}
    except (OSError, UnicodeError) as error:
        raise Fault(f"{host} has no address: {error}", "look at /etc/resolv.conf, or correct [broker] host") from error
    return f"{host} is {', '.join(sorted(found))}"


def _broker(patient: Patient) -> str:
    broker = patient.config.broker
    try:
        with socket.create_connection((broker.host, broker.port), TIMEOUT_S) as link:
            if not (broker.tls or broker.ca_file):
                return "answers, without TLS"
            context = ssl.create_default_context(cafile=broker.ca_file or None)
            if broker.cert_file:
                context.load_cert_chain(broker.cert_file, broker.key_file or None)
            with context.wrap_socket(link, server_hostname=broker.host) as wrapped:
                return f"answers with {wrapped.version()}"
    except ssl.SSLError as error:
        raise Fault(
            f"no TLS: {error.reason or error}", "compare [broker] ca_file with the controller's root"
        ) from error
    except OSError as error:
        raise Fault(f"no connection: {error}", "is the broker running, and the port open in the firewall?") from error


def _agent(patient: Patient) -> str:
    if patient.status is None:
        raise Fault("does not run", "systemctl start shoal-agent; journalctl -u shoal-agent says why it ended")
    return f"{patient.status['state']}, up {patient.status['uptime_s']} s, {patient.status['memory_mib']} MiB"


def _connection(patient: Patient) -> str:
    broker = patient.said["broker"]
    if not broker["connected"]:
        raise Fault("the agent has no connection", "look at the checks of the broker above, and fleet why NODE")
    return f"connected to {broker['address']}"


def _engine(patient: Patient) -> str:
    engine = patient.said["engine"]
    if engine["state"] not in ("ready", "asleep"):
        raise Fault(
            f"{engine['state']}: {engine['problem'] or 'loading'}", "shoal-agent selftest tries the model alone"
        )
    if engine["network_isolated"] is False:
        raise Fault("has a network", "run it in its unit: [engine] socket, shoal-engine.socket")
    return f"{engine['state']}, {engine['restarts']} restarts"


def _steering(patient: Patient) -> str:
    desired, quarantined = patient.said["desired"], patient.said["quarantine"]
    if desired and desired["error"]:
        raise Fault(
            f"revision {desired['rev']} is {desired['phase']}: {desired['error']}", "change what is wished: fleet set"
        )
    if quarantined:
        raise Fault(f"quarantine: {quarantined}", "shoal-agent quarantine ls says what engines died of")
    return f"revision {desired['rev']} is {desired['phase']}" if desired else "not steered"


CHECKS: dict[str, Callable[[Patient], str]] = {
    "configuration": _configuration,
    "state directory": _state_directory,
    "privacy": _privacy,
    "disk space": _disk_space,
    "free files": _files_free,
    "database": _database,
    "processor": _processor,
    "engine library": _engine_library,
    "model": _model,
    "memory": _memory,
    "clock": _clock,
    "identity": _identity,
    "key": _key,
    "certificate": _certificate,
    "broker name": _broker_name,
    "broker": _broker,
    "agent": _agent,
    "connection": _connection,
    "engine": _engine,
    "steering": _steering,
}


def examine(patient: Patient) -> list[dict[str, Any]]:
    """The outcome of every check: its name, whether it is fine, what was found, and what to do next."""
    outcomes = []
    for name, look in CHECKS.items():
        outcome: dict[str, Any] = {"check": name, "ok": True, "next": None}
        try:
            outcome["found"] = look(patient)
        except Fault as fault:
            outcome |= {"ok": False, "found": str(fault), "next": fault.next_step}
        except (AgentError, OSError, sqlite3.Error) as error:
            outcome |= {"ok": False, "found": str(error), "next": "repair what it names, and look again"}
        outcomes.append(outcome)
    return outcomes
