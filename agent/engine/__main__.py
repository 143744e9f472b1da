"""The engine process: `python -m agent.engine FD FILES`, two connected Unix sockets to the daemon.

Frames go through the first, descriptors of adapters come through the second.

It checks the model's file, loads it, decodes a few tokens (the canary: when some flag makes llama.cpp crash here, it
crashes now), says `Ready` and serves until the daemon closes the socket.
"""

import contextlib
import importlib
import os
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import msgspec

from agent.engine import frames
from agent.engine.adapters import Adapters
from agent.engine.death import EXIT_FAILED
from agent.engine.embedder import Embedder
from agent.engine.inbox import Inbox
from agent.engine.isolation import isolate, limit_address_space
from agent.engine.llama import Abort, Context, LoadError, Model
from agent.engine.worker import Worker
from agent.errors import ModelError
from agent.weights.base_model import read_base
from agent.weights.head import read_head


def main() -> None:
    """Runs the engine on the socket whose descriptor is the first argument."""
    network_isolated = isolate()
    # A thread that fails would leave a process behind that hears nothing; its message may quote a prompt.
    threading.excepthook = lambda _: os._exit(EXIT_FAILED)
    connection = socket.socket(fileno=int(sys.argv[1]))
    send_lock = threading.Lock()
    inbox = Inbox(connection, socket.socket(fileno=int(sys.argv[2])), send_lock)
    load = inbox.first()
    if cache := os.environ.get("CACHE_DIRECTORY"):  # of the unit; the daemon's folders are not there
        load = msgspec.structs.replace(load, cache_dir=cache)
    limit_address_space(load.address_space_bytes)
    started = time.monotonic()
    abort = Abort()
    try:
        # Some files that are damaged or odd would end this process in llama.cpp, without a word on why.
        base = read_head(Path(load.file), lambda head, size: read_base(head, label="it", file_bytes=size))
        adapters = Adapters(base)
        model = Model(load.file, use_extra_bufts=load.flags["use_extra_bufts"], use_mmap=load.flags["use_mmap"])
        loop = (
            Embedder(load, model, abort, inbox, connection, send_lock)
            if base.kind == "encoder"
            else Worker(load, model, partial(_make_context, load, abort), abort, adapters, inbox, connection, send_lock)
        )
    except (LoadError, ModelError, OSError) as error:
        connection.sendall(frames.encode(frames.Broken(str(error))))
        return
    loaded = time.monotonic()
    inbox.start(abort, adapters)
    ready = frames.Ready(
        architecture=base.architecture,
        context_tokens=loop.context_tokens,
        load_ms=(loaded - started) * 1000,
        prefill_tok_s=loop.speed.prefill_tok_s,
        decode_tok_s=loop.speed.decode_tok_s,
        network_isolated=network_isolated,
    )
    with send_lock:
        connection.sendall(frames.encode(ready))
    importlib.import_module("jsonschema")  # 0.1 s: not before Ready, and not in the middle of the first answer
    loop.run()


def _make_context(load: frames.Load, abort: Abort, model: Model, parallel: int) -> Context:
    """A context of a model, the plain one or its form with adapter slots, for so many sequences."""
    return Context(
        model,
        abort,
        context_tokens=min(load.context_tokens, model.trained_context_tokens),
        parallel=parallel,
        batch_tokens=frames.BATCH_TOKENS,
        threads=load.threads if load.flags["many_threads"] else 1,
    )


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
        os._exit(EXIT_FAILED)
