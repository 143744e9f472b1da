"""The demo from start to end: what runs, in which order, and what stays."""

import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from rich.console import Console

from contract.answers import Final
from fleet.demo.adapter import NAME, Adapter, find_adapter
from fleet.demo.agent import find_model
from fleet.demo.broker import choose_port
from fleet.demo.prompts import WISHED, Actions, Client, tokens_per_s
from fleet.demo.stage import FLEET, NODES, Plan, Stage
from fleet.demo.trial import forget_trial, load_trial
from fleet.errors import AnswerError, DemoError
from fleet.mosquitto import find_mosquitto


def run(
    folder: Path, model_folder: Path, adapter_folder: Path, *, plain: bool, port: int | None, keep: bool,
    console: Console,
) -> None:  # fmt: skip
    """Runs the demo in `folder`, in place of one that may still run there.

    Raises:
        FleetError: something does not come up, or a prompt is not answered with 200.
    """
    model, adapter = find_model(model_folder), find_adapter(adapter_folder)
    # The person's own SHOAL_… settings are for other agents than these.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    plan = Plan(folder, model, adapter, env, console)
    folder.mkdir(parents=True, exist_ok=True)
    stop(folder, console)
    # Ended by SIGTERM or by closing the terminal, it must still end what it started.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    kept = False
    try:
        stage = _start(plan, plain=plain, port=port)
        _ask(stage, adapter, console)
        if stage.is_fleet:
            _deliver(plan, stage)
        kept = keep
    finally:
        if not kept:
            stop(folder, console)
    if keep:
        _explain(stage, folder, console)


def stop(folder: Path, console: Console) -> bool:
    """Ends the demo that runs in `folder`, if one does; returns whether one did."""
    trial = load_trial(folder)
    ended = trial.end() if trial is not None else []
    forget_trial(folder)
    if ended:
        *first, last = ended
        console.print(f"Stopped {', '.join(first)}{' and ' if first else ''}{last}.")
    return bool(ended)


def _start(plan: Plan, *, plain: bool, port: int | None) -> Stage:
    if not plain and port is None and find_mosquitto() is None:
        plan.console.print(
            "mosquitto is not installed, so this shows one node without a fleet (apt-get install mosquitto)."
        )
        plain = True
    if plain or port is not None:
        from fleet.demo.plain import start_plain

        return start_plain(plan, choose_port(port))
    from fleet.demo.enrolled import show_fleet, start_enrolled

    stage = start_enrolled(plan)
    show_fleet(plan)
    return stage


def _ask(stage: Stage, adapter: Adapter, console: Console) -> None:
    with stage.open_link() as link:
        client = Client(link, FLEET, NODES[0], console)
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


def _deliver(plan: Plan, stage: Stage) -> None:
    from fleet.demo.delivery import BROKEN, UPDATED, roll_out

    plan.console.print("\n5. An update of the adapter, which must answer a golden prompt before it may serve")
    if not roll_out(plan, "2", UPDATED):
        raise DemoError("cannot show an update: its rollout was aborted, as stands above")
    plan.console.print("\n6. A bad one: somebody slipped, and it babbles. The first agent that tries it says so")
    if roll_out(plan, "3", BROKEN):
        raise DemoError("cannot show how a bad update stops: both agents took it")
    plan.console.print("\n7. The wish once more: the good one serves")
    with stage.open_link() as link:
        actions = Client(link, FLEET, NODES[0], plan.console).ask_for_actions(plan.adapter, with_adapter=True)
        if not _judge(actions, plan.console):
            raise AnswerError(f"cannot show that the good {NAME} was kept: it did not understand the wish")


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


def _explain(stage: Stage, folder: Path, console: Console) -> None:
    """How to use what was left running, with commands that can be copied."""
    stop_it = f"  {shlex.quote(sys.argv[0])} demo --stop"
    lines = (f"It stays running; logs are in {folder}. Talk to it:", *stage.hints, "Stop it:", stop_it)
    console.print("\n" + "\n".join(lines), soft_wrap=True)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
