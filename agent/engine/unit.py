"""The main process of an engine unit: `python -m agent.engine.unit`, with a connection for standard input.

systemd starts one for each connection of the daemon (`shoal-engine@.service`), as another user and without network,
keys and journal. It starts the engine as its child, tells the daemon how that ended, and kills it when the daemon goes
away. Without it the daemon would learn of a crash, and not of what kind. `agent/engine/process.py` has the other side.
"""

import json
import os
import select
import socket
import subprocess
import sys

from agent.engine.isolation import environment
from agent.engine.process import MAX_SAID, command, last_place

LONGEST_LINE = 64 * 1024


def main() -> None:
    """Serves one engine."""
    daemon = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    _, descriptors, _, _ = socket.recv_fds(daemon, 1, 2)
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    child = subprocess.Popen(
        command(sockets), pass_fds=descriptors, env=environment(os.environ),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    for sock in sockets:
        sock.close()  # the daemon sees the end of the engine's sockets with the engine
    _say(daemon, {"pid": child.pid})
    said = _follow(child, daemon)
    _say(daemon, {"code": child.wait(), "said": said.decode(errors="replace")[:MAX_SAID]})


def _follow(child: subprocess.Popen[bytes], daemon: socket.socket) -> bytes:
    """Waits for the child's end, or the daemon's word, which ends the child; returns the child's last words."""
    assert child.stderr is not None  # noqa: S101  # it is a pipe
    errors = child.stderr.fileno()
    watched: list[int | socket.socket] = [errors, daemon]
    last = rest = b""
    while True:
        readable, _, _ = select.select(watched, [], [])
        if daemon in readable:  # it never says more than its first byte: it has closed
            child.kill()
            watched.remove(daemon)
        if errors not in readable:
            continue
        data = os.read(errors, LONGEST_LINE)
        *lines, rest = (rest[-LONGEST_LINE:] + data).split(b"\n")
        for line in lines if data else [rest]:
            last = last_place(line, last)
        if not data:
            return last


def _say(daemon: socket.socket, message: dict[str, object]) -> None:
    try:
        daemon.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        sys.exit(0)  # nobody listens; the child dies with us


if __name__ == "__main__":
    main()
