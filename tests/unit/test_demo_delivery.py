"""The releases that the demo publishes."""

import struct
from pathlib import Path

from fleet.commands.publish import read_golden
from fleet.demo.adapter import find_adapter
from fleet.demo.delivery import ALPHA, golden_prompts, with_strength

ADAPTERS = Path("training", "adapters")


def test_only_the_strength_is_another() -> None:
    """Four bytes of the file, which a delta is small for."""
    file = find_adapter(ADAPTERS).file
    before, after = file.read_bytes(), with_strength(file, 2.0)
    place = before.index(ALPHA) + len(ALPHA) + 4
    assert struct.unpack_from("<f", after, place)[0] == 2 * struct.unpack_from("<f", before, place)[0]
    assert before[:place] + after[place : place + 4] + before[place + 4 :] == after


def test_the_golden_prompt_is_the_wish(tmp_path: Path) -> None:
    """As the demo asks it, in the form that publishing reads; the answer must name what was wished for."""
    adapter = find_adapter(ADAPTERS)
    (tmp_path / "golden.toml").write_text(golden_prompts(adapter), "utf-8")
    [prompt] = read_golden(tmp_path / "golden.toml")
    assert [turn["role"] for turn in prompt["messages"]] == ["system", "user"]
    assert prompt["messages"][0]["content"] == adapter.system
    assert [one["text"] for one in prompt["expect"]] == ['"light"', '"blinds"', '"tv"']
