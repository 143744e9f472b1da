"""The demo's agent: its configuration, its start, and the wait until it is online."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich.console import Console

from contract.ids import id_from
from contract.presence import NodeState
from contract.topics import NodeStatus
from fleet.demo.process import Process, last_lines, start
from fleet.errors import DemoError
from fleet.link import Link
from fleet.terminal import visible

FLEET = "home"
NODE = "demo-1"
STATE = "state"  # the folder
ONLINE_WITHIN_S = 120.0
LOOK_S = 0.5
SAY_EVERY_S = 10.0

DEFAULT_MODEL = "smollm2-135m-instruct"

AGENT_TOML = """\
# Written by `fleet demo`.
[node]
id = "{node}"
fleet = "{fleet}"
state_dir = {state_dir}

[broker]
host = "{host}"
port = {port}

[model]
file = {file}
name = "{name}"
"""


def find_model(folder: Path) -> Path:
    """The GGUF file in `folder`.

    Raises:
        DemoError: there is none, or more than one.
    """
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1:
        return files[0].absolute()
    what = "there is no .gguf file in it" if not files else f"it holds {len(files)} .gguf files"
    raise DemoError(f"cannot take the model from {folder}: {what}; run `make demo`, or name a folder with one model")


def write_config(folder: Path, model: Path, host: str, port: int) -> Path:
    """Writes `agent.toml`; returns its path."""
    path = folder / "agent.toml"
    is_default = model.stem.lower().startswith(DEFAULT_MODEL)
    path.write_text(
        AGENT_TOML.format(
            node=NODE,
            fleet=FLEET,
            state_dir=_quoted(folder / STATE),
            host=host,
            port=port,
            file=_quoted(model),
            name=DEFAULT_MODEL if is_default else id_from(model.stem, "model"),
        ),
        "utf-8",
    )
    return path


def start_agent(config: Path, log: Path, env: Mapping[str, str]) -> Process:
    """Starts `shoal-agent`, the one that was installed together with this command.

    Raises:
        DemoError: it is not installed.
    """
    program = Path(sys.executable).with_name("shoal-agent")
    if not program.exists():
        raise DemoError(f"cannot find {program}: the agent is not installed here; pip install 'shoal[agent]'")
    return start([str(program), "run", "--config", str(config)], log, env)


def wait_until_online(link: Link, agent: Process, log: Path, console: Console) -> None:
    """Waits for the node's retained status "online"; says now and then that it waits.

    Raises:
        DemoError: the agent ends, or is not online in time; the end of its log was printed.
    """
    began = time.monotonic()
    said = began
    link.subscribe({NodeStatus(NODE).path(FLEET): 1})
    while (now := time.monotonic()) < began + ONLINE_WITHIN_S:
        incoming = link.next(LOOK_S)
        if incoming is not None and _is_online(incoming.payload):
            console.print(f"  online after {time.monotonic() - began:.1f} s")
            return
        if not agent.running:
            raise _failed("cannot keep the agent running: it ended", log, console)
        if now >= said + SAY_EVERY_S:
            said = now
            console.print(f"  … not yet after {now - began:.0f} s; its log: {visible(last_lines(log, 1))}")
    raise _failed(f"cannot get the agent online within {ONLINE_WITHIN_S:.0f} s", log, console)


def _is_online(payload: bytes) -> bool:
    try:
        return msgspec.json.decode(payload, type=NodeState).s == "online"
    except msgspec.MsgspecError:
        return False


def _failed(what: str, log: Path, console: Console) -> DemoError:
    console.print(f"\nThe end of {log}:")
    console.print(visible(last_lines(log)) or "(it is empty)", soft_wrap=True)
    check = f"{Path(sys.executable).with_name('shoal-agent')} check --config {log.with_name('agent.toml')}"
    return DemoError(f"{what}; the end of its log stands above, and `{check}` may say more")


def _quoted(path: Path) -> str:
    # The escapes of JSON strings are also TOML's.
    return msgspec.json.encode(str(path)).decode()
