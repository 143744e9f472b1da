"""The demo's updates: a good one goes to both agents in two waves, a bad one stops at the first of them."""

import json
import shlex
import struct
from pathlib import Path

from fleet.demo.adapter import NAME, Adapter
from fleet.demo.enrolled import controller_folder
from fleet.demo.prompts import WISH, WISHED
from fleet.demo.stage import Plan

# An adapter's strength stands in its file as a number. A little more of it is an update; a slipped digit breaks it.
ALPHA = b"adapter.lora.alpha"
UPDATED, BROKEN = 1.02, 40.0

GOLDEN_TOML = """\
# What an adapter must answer before it may serve.
[[prompt]]
system = {system}
user = {wish}
contains = {contains}
max_tokens = 96
"""


def roll_out(plan: Plan, version: str, strength: float) -> bool:
    """Publishes a version of the adapter and rolls it out, first to one agent; returns whether both have it.

    Raises:
        DemoError: a command fails.
    """
    folder = plan.folder / "releases"
    folder.mkdir(exist_ok=True)
    golden, file = folder / "golden.toml", folder / f"{NAME}-{version}.gguf"
    golden.write_text(golden_prompts(plan.adapter), "utf-8")
    file.write_bytes(with_strength(plan.adapter.file, strength))
    _run(plan, "adapter", "publish", NAME, version, str(file), "--license", "Apache-2.0", "--golden", str(golden))
    begun = _run(plan, "rollout", "start", f"{NAME}@{version}", "--waves", "1,100%", "--soak", "1s")
    rollout = begun.split()[0]
    return f"{rollout} completed" in _run(plan, "rollout", "watch", rollout)


def with_strength(file: Path, factor: float) -> bytes:
    """An adapter's file with its strength multiplied."""
    data = bytearray(file.read_bytes())
    place = data.index(ALPHA) + len(ALPHA) + 4  # behind its key, which is followed by its type
    (alpha,) = struct.unpack_from("<f", data, place)
    struct.pack_into("<f", data, place, alpha * factor)
    return bytes(data)


def golden_prompts(adapter: Adapter) -> str:
    """The wish as a golden prompt, in TOML."""
    contains = [f'"{action["device"]}"' for action in WISHED]
    texts = {"system": adapter.system, "wish": WISH, "contains": contains}
    return GOLDEN_TOML.format(**{name: json.dumps(text) for name, text in texts.items()})  # which TOML reads too


def _run(plan: Plan, *words: str) -> str:
    """Runs a command, and shows it with what it prints, while it prints."""
    shown = (Path(word).name if Path(word).is_absolute() else word for word in words)
    plan.console.print(f"\n  $ fleet {shlex.join(shown)}")
    said = []
    for line in plan.follow("fleet", *words, SHOAL_FLEET_DIR=str(controller_folder(plan))):
        plan.console.print(f"    {line}", markup=False)
        said.append(line)
    return "\n".join(said)
