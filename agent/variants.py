"""A model in several number formats, with what each of them shows: `python -m agent.variants FILE FOLDER Q4_0,Q8_0`.

`fleet model publish --quantize` runs it, because only the agent knows llama.cpp. On standard input comes a `Wanted`, on
standard output goes a `Variant` a line, as JSON: the file itself first, then what was made of it, in the folder. What
each shows is measured as the gate measures it on a node, on this machine.
"""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.engine.quantize import quantize
from agent.engine.supervisor import Plan
from agent.errors import AgentError
from agent.update.gate import Trial
from agent.update.trial import Subject, show
from contract.release import Facts
from contract.variants import Variant

CONTEXT_TOKENS = 2048
START_TIMEOUT_S = 300.0
STALL_S = 60.0


class Adapter(Struct, frozen=True):
    """An adapter of the model: its file, and its golden prompts."""

    file: str
    facts: Facts


class Wanted(Struct, frozen=True):
    """What is said of the model, and its adapters by release."""

    facts: Facts
    adapters: dict[str, Adapter] = {}


async def look_at(kind: str | None, file: Path, num_bytes: int, wanted: Wanted) -> Variant:
    """What a file shows, alone and with each adapter.

    Raises:
        EngineError: it cannot be loaded.
    """
    plan = Plan(
        file=str(file), context_tokens=wanted.facts.context_tokens or CONTEXT_TOKENS, parallel=2,
        threads=max(1, len(os.sched_getaffinity(0))), start_timeout_s=START_TIMEOUT_S, stall_s=STALL_S,
        chat_template=wanted.facts.chat_template,
    )  # fmt: skip
    own = await show(Subject(plan, None), wanted.facts, None)
    adapters = {
        name: _share(await show(Subject(plan, None, Path(one.file)), one.facts, None), one.facts)
        for name, one in wanted.adapters.items()
    }
    return Variant(
        kind=kind, file=str(file), bytes=num_bytes, tok_s=own.tok_s, text_bits=own.text_bits,
        perplexity=own.perplexity, golden=_share(own, wanted.facts), adapters=adapters,
    )  # fmt: skip


def _share(trial: Trial, facts: Facts) -> float | None:
    if not facts.golden:
        return None
    return sum(all(answer.met) for answer in trial.answers) / len(facts.golden)


def main(source: Path, folder: Path, kinds: list[str]) -> None:
    """Makes and looks at all of them.

    Raises:
        AgentError: a format does not exist, or a model cannot be made or loaded.
    """
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    for kind in (None, *kinds):
        file = source
        if kind is not None:
            file = folder / f"{kind}.gguf"
            quantize(source, file, kind, len(os.sched_getaffinity(0)))
        found = asyncio.run(look_at(kind, file, file.stat().st_size, wanted))
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
    except AgentError as error:
        sys.exit(str(error))
