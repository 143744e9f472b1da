"""`shoal-agent calibrate`: from how sure answers were and whether they were right to which of them are kept."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent.commands.output import Json, print_json
from agent.config import load_config
from agent.errors import AgentError
from agent.sureness import FILE, Answered, fit


def calibrate(
    outcomes: Annotated[
        Path,
        typer.Argument(help='Lines of {"model", "adapter", "confidence", "right"}, the first three as in finals.'),
    ],
    send: Annotated[float, typer.Option(min=0, max=1, help="The share of answers that may be asked for again.")] = 0.1,
    as_json: Json = False,
) -> None:
    """Say which answers are good enough: the others are asked for again in the cloud, where their privacy allows it.

    Holds from the next start of the agent on.
    """
    try:
        logged = msgspec.json.Decoder(Answered).decode_lines(outcomes.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise AgentError(f"cannot read {outcomes}: {error}; write one JSON object in each line") from error
    kept, fits = fit(logged, send)
    file = load_config().state_dir / FILE
    try:
        fresh = file.with_name(f".{FILE}")
        fresh.write_bytes(msgspec.json.encode(kept))
        fresh.replace(file)
    except OSError as error:
        raise AgentError(f"cannot write {file}: {error.strerror}; let this user write there") from error
    if as_json:
        print_json(msgspec.to_builtins(fits))
        return
    for one in fits:
        name = one.model + (f" with {one.adapter}" if one.adapter else "")
        print(f"{name}: {one.outcomes} outcomes, sends {one.sent:.1%}, calibration error {one.error:.3f}")
