"""`fleet model publish --quantize`: a model in several number formats, with what each of them shows.

The agent's package makes and measures them, in a process of its own on this machine: it alone knows llama.cpp.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from contract.release import Facts
from contract.variants import TOLERANCE, Variant
from fleet.errors import FolderError, UsageError
from fleet.tables import print_table

if TYPE_CHECKING:
    from fleet.remote import Controller


def make_variants(file: Path, kinds: Sequence[str], place: Path, facts: dict[str, Any], adapters: Any) -> list[Variant]:
    """The file itself, then what is made of it in `place`. Takes minutes; `adapters` are those of `fetch_adapters`.

    Raises:
        FolderError: they cannot be made here.
    """
    said = {"facts": facts, "adapters": adapters}
    done = subprocess.run(
        [sys.executable, "-m", "agent.variants", str(file), str(place), ",".join(kinds)],
        input=msgspec.json.encode(said), capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise FolderError(f"cannot make variants of {file}: {why[0]}; this needs shoal[agent] on this machine")
    return [msgspec.json.decode(line, type=Variant) for line in done.stdout.splitlines()]


def fetch_adapters(controller: "Controller", base_sha256: str, place: Path) -> dict[str, dict[str, Any]]:
    """The published adapters of a model that have golden prompts: their files, and what is said of them."""
    from fleet.api.releases import Listed, Shown

    found = {}
    for one in controller.get("/v1/releases", list[Listed]):
        if one.kind != "adapter" or one.state != "approved":
            continue
        name, _, version = one.release.partition("@")
        manifest = controller.get(f"/v1/releases/{name}", Shown, version=version).manifest
        if manifest["base_sha256"] != base_sha256 or not manifest["golden"]:
            continue
        file = place / f"{one.sha256}.gguf"
        with file.open("wb") as opened:
            for piece in controller.download(f"/v1/releases/{name}/file", version=version):
                opened.write(piece)
        facts = msgspec.convert({key: manifest[key] for key in Facts.__struct_fields__}, Facts)
        found[one.release] = {"file": str(file), "facts": facts}
    return found


def version_of(version: str, kind: str | None) -> str:
    """What a variant's version is called: 2+q8_0."""
    return version if kind is None else f"{version}+{kind.lower()}"


def check_kinds(text: str) -> list[str]:
    """The formats in a list such as "Q4_0,Q8_0".

    Raises:
        UsageError: it is none.
    """
    kinds = [one.strip().upper() for one in text.split(",")]
    if not all(kinds) or len(set(kinds)) < len(kinds):
        raise UsageError(f"cannot make the variants {text!r}: write formats of llama.cpp, as in Q4_0,Q8_0")
    return kinds


def show_variants(name: str, version: str, variants: Sequence[Variant]) -> None:
    """What they showed, as a table."""
    adapters = list(variants[0].adapters)
    best = {one: max(variant.adapters[one] or 0.0 for variant in variants) for one in adapters}
    rows = [
        (
            f"{name}@{version_of(version, one.kind)}", f"{one.bytes / 1e6:.1f}", _number(one.tok_s, ".1f"),
            _number(one.text_bits, ".3f"), _number(one.perplexity, ".2f"), _number(one.golden, ".0%"),
            *(_fitness(one.adapters[adapter], best[adapter]) for adapter in adapters),
        )
        for one in variants
    ]  # fmt: skip
    titles = ("variant", "MB", "tokens/s", "bits/byte", "perplexity", "golden")
    print_table((*titles, *adapters), rows, right=titles[1:])


def _fitness(share: float | None, best: float) -> str:
    if share is None:
        return "-"
    return f"{share:.0%} {'unfit' if share < best - TOLERANCE else 'fit'}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
