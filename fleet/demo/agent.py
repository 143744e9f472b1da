"""The demo's agents: their configuration, their start, and the wait until they are online."""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from contract.ids import id_from
from fleet.broker_url import BrokerUrl
from fleet.demo.adapter import drop
from fleet.demo.process import Process, last_lines
from fleet.demo.stage import FLEET, Plan
from fleet.errors import DemoError
from fleet.terminal import visible

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
{identity}
[model]
file = {file}
name = "{name}"
"""
# Where `shoal-agent enroll` puts them.
IDENTITY_TOML = """\
ca_file = {ca}
cert_file = {pem}
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


def home_of(plan: Plan, node: str) -> Path:
    """The folder of all that a node has."""
    return plan.folder / node


def write_config(plan: Plan, node: str, broker: BrokerUrl) -> Path:
    """Writes a node's `agent.toml`, with the identity that it has or will have if the broker wants one."""
    home = home_of(plan, node)
    home.mkdir(parents=True, exist_ok=True)
    identity = home / "state" / "identity"
    path = home / "agent.toml"
    is_default = plan.model.stem.lower().startswith(DEFAULT_MODEL)
    names = {"ca": _quoted(identity / "ca.pem"), "pem": _quoted(identity / "identity.pem")}
    path.write_text(
        AGENT_TOML.format(
            node=node,
            fleet=FLEET,
            state_dir=_quoted(home / "state"),
            host=broker.host,
            port=broker.port,
            identity=IDENTITY_TOML.format(**names) if broker.tls else "",
            file=_quoted(plan.model),
            name=DEFAULT_MODEL if is_default else id_from(plan.model.stem, "model"),
        ),
        "utf-8",
    )
    return path


def start_agent(plan: Plan, node: str, broker: BrokerUrl) -> Process:
    """Starts a node's agent, with the adapter where it takes it in.

    Raises:
        DemoError: it is not installed.
    """
    config = write_config(plan, node, broker)
    drop(plan.adapter, config.parent / "state")
    return plan.start("shoal-agent", "run", "--config", str(config), log=_log(plan, node))


class Waiting:
    """The wait for agents; says now and then that it goes on."""

    def __init__(self, plan: Plan, agents: Mapping[str, Process]) -> None:
        self._plan = plan
        self._agents = agents
        self._began = self._said = time.monotonic()

    def check(self) -> None:
        """To be called again and again.

        Raises:
            DemoError: an agent has ended, or time is up; the end of its log was printed.
        """
        now = time.monotonic()
        for node, agent in self._agents.items():
            if not agent.running:
                raise self._failed(node, "cannot keep the agent running: it ended")
        node = next(iter(self._agents))
        if now >= self._began + ONLINE_WITHIN_S:
            raise self._failed(node, f"cannot get the agent online within {ONLINE_WITHIN_S:.0f} s")
        if now >= self._said + SAY_EVERY_S:
            self._said = now
            last = visible(last_lines(_log(self._plan, node), 1))
            self._plan.console.print(f"  … not yet after {now - self._began:.0f} s; its log: {last}")

    def end(self) -> None:
        """They are online."""
        self._plan.console.print(f"  online after {time.monotonic() - self._began:.1f} s")

    def _failed(self, node: str, what: str) -> DemoError:
        log = _log(self._plan, node)
        self._plan.console.print(f"\nThe end of {log}:")
        self._plan.console.print(visible(last_lines(log)) or "(it is empty)", soft_wrap=True)
        config = log.with_name("agent.toml")
        return DemoError(
            f"{what}; the end of its log stands above, and `shoal-agent check --config {config}` may say more"
        )


def _log(plan: Plan, node: str) -> Path:
    return home_of(plan, node) / "agent.log"


def _quoted(path: Path) -> str:
    # The escapes of JSON strings are also TOML's.
    return msgspec.json.encode(str(path)).decode()
