"""`shoal-agent calibrate`: from how sure answers were and whether they were right to which of them are kept."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from agent.commands.output import Json, print_json
from agent.config import load_config
from agent.errors import AgentError
from agent.sureness import Answered, fit, store


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
    fits = fit(logged, send)
    store(load_config().state_dir, fits)
    if as_json:
        print_json(msgspec.to_builtins(fits))
        return
    for one in fits:
        name = one.model + (f" with {one.adapter}" if one.adapter else "")
        print(f"{name}: {one.outcomes} outcomes; {1 - one.sent:.1%} are kept, those from {one.from_confidence:.3f} on,")
        print(f"  which are right with probability {one.right:.2f} or more (calibration error {one.error:.3f})")
