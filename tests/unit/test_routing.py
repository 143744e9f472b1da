"""Which model answers."""

from pathlib import Path

import pytest

from agent.routing import Candidate, Served, choose_default, choose_model
from contract.errors import Refused

SMOL = Served("smollm2", "1", "generate", is_default=True)
QWEN = Served("qwen", "2", "generate")
MINI = Served("minilm", "6", "embed")


def candidate(name: str, task: str = "generate") -> Candidate:
    """A model file."""
    return Candidate(Path(f"/models/{name}.gguf"), name, task)  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(
    ("found", "name", "remembered", "chosen"),
    [
        ([], "", None, None),
        ([candidate("a")], "", None, "a"),
        ([candidate("a")], "other", None, "a"),
        ([candidate("m", "embed")], "", None, "m"),
        ([candidate("a"), candidate("m", "embed")], "", None, "a"),
        ([candidate("a"), candidate("b")], "", None, None),
        ([candidate("a"), candidate("b")], "b", "/models/a.gguf", "b"),
        ([candidate("a"), candidate("b")], "", "/models/a.gguf", "a"),
        ([candidate("a"), candidate("b")], "c", "/models/a.gguf", "a"),
        ([candidate("a"), candidate("b")], "", "/models/gone.gguf", None),
        ([candidate("m", "embed"), candidate("n", "embed")], "", None, None),
    ],
)
def test_default_model(found: list[Candidate], name: str, remembered: str | None, chosen: str | None) -> None:
    """The only one, the only text model, the one that is named, the one it was before; otherwise none."""
    default = choose_default(found, name=name, remembered=remembered)
    assert (default.name if default else None) == chosen


@pytest.mark.parametrize(
    ("reference", "task", "chosen"),
    [
        (None, "generate", SMOL),
        (None, "embed", MINI),
        ("smollm2", "generate", SMOL),
        ("qwen", "generate", QWEN),
        ("qwen@2", "generate", QWEN),
        ("minilm", "embed", MINI),
    ],
)
def test_request_finds_its_model(reference: str | None, task: str, chosen: Served) -> None:
    """By name, by name and version, or without a name by its task."""
    assert choose_model(reference, task, [SMOL, QWEN, MINI]) is chosen  # type: ignore[arg-type]  # one of the two


@pytest.mark.parametrize(
    ("reference", "task", "served", "status", "code", "words"),
    [
        ("qwen@3", "generate", [SMOL, QWEN], 404, "model", "this node has smollm2@1, qwen@2"),
        ("Qwen", "generate", [], 404, "model", "this node has none"),
        ("minilm", "generate", [SMOL, MINI], 400, "model", "use task 'embed' and input"),
        ("qwen", "embed", [QWEN, MINI], 400, "model", "which generates text; for 'embed' this node has minilm@6"),
        (None, "embed", [SMOL], 400, "task", "no model of this node does; it has smollm2@1"),
        (None, "generate", [MINI], 400, "task", "it has minilm@6"),
        (None, "generate", [QWEN, Served("a", "1", "generate")], 400, "model", "give one of qwen@2, a@1 in `model`"),
        ("qwen", "generate", [QWEN, Served("qwen", "3", "generate")], 400, "model", "give one of qwen@2, qwen@3"),
    ],
)
def test_request_without_a_clear_model_is_refused(
    reference: str | None, task: str, served: list[Served], status: int, code: str, words: str
) -> None:
    """The message says what this node has."""
    with pytest.raises(Refused) as refused:
        choose_model(reference, task, served)  # type: ignore[arg-type]  # one of the two
    assert (refused.value.status, refused.value.code) == (status, code)
    assert refused.value.message.startswith("cannot ")
    assert words in refused.value.message


def test_default_wins_among_versions_of_one_name() -> None:
    """A name alone means the default version when it has that name."""
    newer = Served("smollm2", "2", "generate")
    assert choose_model("smollm2", "generate", [newer, SMOL]) is SMOL
    assert choose_model("smollm2@2", "generate", [newer, SMOL]) is newer
