"""The demo's broker: mosquitto when it is installed, else the embedded one. Loopback only."""

import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fleet.broker_url import PORTS
from fleet.demo.process import Process, last_lines, start
from fleet.errors import DemoError
from fleet.mosquitto import find_mosquitto

HOST = "127.0.0.1"
LISTENS_WITHIN_S = 15.0
POLL_S = 0.05

# Why: 44 ms less for each message; nothing lost when the broker is killed; no answers dropped silently beyond
# the default queue of 1000.
MOSQUITTO_CONF = """\
listener {port} {host}
allow_anonymous true
set_tcp_nodelay true
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
max_queued_messages 100000
log_dest stdout
"""


def choose_port(wanted: int | None) -> int:
    """The wanted port; without one the usual, and when that is taken any free one.

    Raises:
        DemoError: the wanted port is taken.
    """
    if wanted is None:
        return bindable(PORTS["mqtt"]) or bindable(0) or 0
    if bindable(wanted) is None:
        raise DemoError(f"cannot use port {wanted} on {HOST}: it is taken; choose another --port, or none to get one")
    return wanted


def start_broker(folder: Path, port: int, log: Path, env: Mapping[str, str]) -> tuple[str, Process]:
    """Starts a broker that keeps its files in `folder`, with its output in `log`.

    What an earlier broker retained there is removed: a stale "online" of a node would look like a live one.

    Returns:
        The broker's name and its process.

    Raises:
        DemoError: it cannot be started.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    program = find_mosquitto()
    if program is None:
        name = "the embedded trial broker"
        process = start([sys.executable, "-m", "fleet.embedded_broker", "--port", str(port)], log, env)
    else:
        name = "mosquitto"
        conf = folder / "mosquitto.conf"
        text = MOSQUITTO_CONF.format(port=port, host=HOST, folder=folder)
        # Started by root, mosquitto would become a user who may not write here.
        conf.write_text(text + ("user root\n" if os.geteuid() == 0 else ""), "utf-8")
        process = start([program, "-c", str(conf)], log, env)
    return name, process


def wait_until_it_listens(process: Process, port: int, log: Path) -> None:
    """Waits for a broker that was just started.

    Raises:
        DemoError: it ends or does not listen in time.
    """
    deadline = time.monotonic() + LISTENS_WITHIN_S
    while process.running and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(POLL_S)
    what = "it does not listen" if process.running else "it ended at once"
    raise DemoError(f"cannot start the broker on {HOST}:{port}: {what}; its log {log} ends: {last_lines(log, 3)}")


def bindable(port: int) -> int | None:
    """The port, or for 0 any free one; None when it is taken."""
    with socket.socket() as probe:
        # As brokers do: connections of an earlier one that linger do not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return None
        return int(probe.getsockname()[1])
