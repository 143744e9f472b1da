"""The demo from start to end: what runs, in which order, and what stays."""

import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from contract.answers import Final
from contract.topics import NodeRequest, PlainAnswer
from fleet.broker_url import PORTS, BrokerUrl
from fleet.demo.adapter import NAME, Adapter, drop, find_adapter
from fleet.demo.agent import FLEET, NODE, STATE, find_model, start_agent, wait_until_online, write_config
from fleet.demo.broker import HOST, choose_port, start_broker, wait_until_it_listens
from fleet.demo.prompts import WISHED, Actions, Client, tokens_per_s
from fleet.demo.trial import Address, Trial, forget_trial, load_trial, save_trial
from fleet.errors import AnswerError
from fleet.link import open_link


def run(
    folder: Path, model_folder: Path, adapter_folder: Path, port: int | None, *, keep: bool, console: Console
) -> None:
    """Runs the demo in `folder`, in place of one that may still run there.

    Raises:
        FleetError: something does not come up, or a prompt is not answered with 200.
    """
    model, adapter = find_model(model_folder), find_adapter(adapter_folder)
    folder.mkdir(parents=True, exist_ok=True)
    stop(folder, console)
    # Ended by SIGTERM or by closing the terminal, it must still end what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    kept = False
    try:
        trial = _start(folder, model, adapter, choose_port(port), console)
        _ask(trial, adapter, console)
        kept = keep
    finally:
        if not kept:
            stop(folder, console)
    if keep:
        _explain(trial, folder, console)


def stop(folder: Path, console: Console) -> bool:
    """Ends the demo that runs in `folder`, if one does; returns whether one did."""
    trial = load_trial(folder)
    ended = trial.end() if trial is not None else []
    forget_trial(folder)
    if ended:
        console.print(f"Stopped {' and '.join(ended)}.")
    return bool(ended)


def _start(folder: Path, model: Path, adapter: Adapter, port: int, console: Console) -> Trial:
    """Starts broker and agent; returns when the agent is online."""
    # The person's own SHOAL_… settings are for another agent than this one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    trial = Trial(Address(HOST, port), FLEET, NODE)
    broker_log, agent_log = folder / "broker.log", folder / "agent.log"

    name, broker = start_broker(folder / "broker", port, broker_log, env)
    trial = trial.with_process("broker", broker)
    save_trial(folder, trial)
    wait_until_it_listens(broker, port, broker_log)
    console.print(f"Broker: {name} on {HOST}:{port}.")

    console.print(f"Agent: node {NODE}, model {model.name} …")
    drop(adapter, folder / STATE)
    agent = start_agent(write_config(folder, model, HOST, port), agent_log, env)
    trial = trial.with_process("agent", agent)
    save_trial(folder, trial)
    with open_link(BrokerUrl(HOST, port)) as link:
        wait_until_online(link, agent, agent_log, console)
    return trial


def _ask(trial: Trial, adapter: Adapter, console: Console) -> None:
    with open_link(BrokerUrl(trial.broker.host, trial.broker.port)) as link:
        client = Client(link, trial.fleet, trial.node, console)
        console.print("\n1. Plain text, as any device can send it")
        client.ask_plain()
        console.print("\n2. JSON, streamed: tokens as they arrive")
        streamed = client.ask_streaming()
        console.print("\n3. JSON with a schema: a wish becomes actions. First the bare model")
        _judge(client.ask_for_actions(adapter, with_adapter=False), console)
        console.print(f"\n4. The same wish with the adapter {NAME}")
        if not _judge(client.ask_for_actions(adapter, with_adapter=True), console):
            raise AnswerError(f"cannot show what the adapter {NAME} does: it did not understand the wish")
    console.print(f"\n4 of 4 prompts answered{_speed(streamed)}.")


def _judge(actions: Actions, console: Console) -> bool:
    for action in actions:
        console.print(f"    {action['device']} in the {action['room']}: {action['set']}", markup=False)
    is_right = actions == WISHED
    console.print("  That is what was wished for." if is_right else "  That is not what was wished for.")
    return is_right


def _speed(final: Final) -> str:
    first_ms = final.timings.first_token_ms if final.timings else None
    speed = tokens_per_s(final)
    if first_ms is None or speed is None:
        return ""
    return f"; streamed: first token after {first_ms:.0f} ms, then {speed:.0f} tokens/s"


def _explain(trial: Trial, folder: Path, console: Console) -> None:
    """How to use what was left running, with commands that can be copied."""
    host, port = trial.broker.host, trial.broker.port
    fleet = shlex.quote(sys.argv[0])
    named = fleet if port == PORTS["mqtt"] else f"{fleet} --broker {BrokerUrl(host, port)}"
    request = NodeRequest(trial.node, "me").path(trial.fleet)
    answer = PlainAnswer("me").path(trial.fleet)
    lines = (
        f"It stays running; logs are in {folder}. Talk to it:",
        f"  mosquitto_sub -h {host} -p {port} -t {answer} &",
        f"  mosquitto_pub -h {host} -p {port} -t {request} -m 'is the freezer too warm at -9?'",
        f"  {named} ask {trial.node} 'give me one tip to save energy' --stream",
        f"  {named} status",
        "Stop it:",
        f"  {fleet} demo --stop",
    )
    console.print("\n" + "\n".join(lines), soft_wrap=True)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
