"""The engine process: `python -m agent.engine FD`, where FD is a connected Unix socket to the daemon.

It loads the model, decodes a few tokens (the canary: when some flag makes llama.cpp crash here, it crashes now), says
`Ready` and serves until the daemon closes the socket.
"""

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import statistics
import sys
import threading
import time

from agent.engine import frames
from agent.engine.inbox import Inbox
from agent.engine.llama import Context, LoadError, Model
from agent.engine.worker import Worker

PR_SET_PDEATHSIG = 1
# A step's prompt tokens. Small steps keep other streams fluent and let an abort, which takes effect between the
# nodes of a step's graph, come through fast; larger ones gain little speed on a processor.
BATCH_TOKENS = 128
CANARY_PROMPT_TOKENS = 16
CANARY_DECODE_TOKENS = 5


def main() -> None:
    """Runs the engine on the socket whose descriptor is the first argument."""
    _tie_to_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    send_lock = threading.Lock()
    inbox = Inbox(connection, send_lock)
    load = inbox.first()
    started = time.monotonic()
    try:
        model = Model(load.file, use_extra_bufts=load.flags["use_extra_bufts"], use_mmap=load.flags["use_mmap"])
        context = Context(
            model,
            context_tokens=min(load.context_tokens, model.trained_context_tokens),
            parallel=load.parallel,
            batch_tokens=BATCH_TOKENS,
            threads=load.threads if load.flags["many_threads"] else 1,
        )
    except LoadError as error:
        connection.sendall(frames.encode(frames.Broken(str(error))))
        return
    loaded = time.monotonic()
    prefill_tok_s, decode_tok_s = _canary(context)
    inbox.start(context)
    worker = Worker(model, context, inbox, connection, send_lock)
    ready = frames.Ready(
        architecture=model.metadata("general.architecture") or "unknown",
        context_tokens=context.context_tokens,
        load_ms=(loaded - started) * 1000,
        prefill_tok_s=prefill_tok_s,
        decode_tok_s=decode_tok_s,
    )
    with send_lock:
        connection.sendall(frames.encode(ready))
    importlib.import_module("jsonschema")  # 0.1 s: not before Ready, and not in the middle of the first answer
    worker.run()


def _canary(context: Context) -> tuple[float, float]:
    """Decodes a prompt and a few single tokens; returns tokens a second of both."""
    count = min(CANARY_PROMPT_TOKENS, context.context_tokens // 2)
    times = []
    for rows in [
        [(i % 64, i, 0, i == count - 1) for i in range(count)],
        *([(i % 64, i, 0, True)] for i in range(count, count + CANARY_DECODE_TOKENS)),
    ]:
        started = time.monotonic()
        context.decode(rows)
        times.append(time.monotonic() - started)
    context.truncate(0, 0)
    # The median: the first steps also bring the weights into memory.
    return count / times[0], 1 / statistics.median(times[1:])


def _tie_to_parent() -> None:
    """The engine dies with its daemon, leaves no core file (it would hold prompts) and leaves signals to the daemon.

    Ctrl-C and many service managers signal every process of a group; what runs may still end while the daemon drains.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getppid() == 1:  # the daemon died before the line above could tie us to it
        sys.exit(0)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001  # the message may quote a prompt; type and line are enough to find it
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        with contextlib.suppress(OSError):
            where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
            sys.stderr.write(f"engine failed: {type(error).__name__} at {where}\n")
        os._exit(70)
