"""Adapters of the default model in slots, against plain LoRA.

On the model as it is, activations are rounded to 8 bits, so that any last bit grows to as much as 0.9 in a logit. Here
its weights are made f16, where it stays small; what is left is `NOISE`, and what was let pass is printed.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as lib

from agent.engine.frames import Activation
from tests.fakes.adapters import make_adapter
from tests.fakes.engine import EngineProcess
from tests.fakes.oracle import Oracle, Question, Turns

NOISE = 0.05
MAX_TOKENS = 16
TURNS: list[Turns] = [
    (("user", "Name a fish that lives in the sea."),),
    (("system", "You are the voice of a house with nine rooms."), ("user", "What do you see?")),
]


@pytest.fixture(scope="module")
def model_f16(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The default model with weights in f16, 270 MB."""
    path = tmp_path_factory.mktemp("f16") / "model.gguf"
    params = lib.llama_model_quantize_default_params()
    params.ftype = lib.LLAMA_FTYPE_MOSTLY_F16
    params.allow_requantize = True
    params.nthread = 2
    assert lib.llama_model_quantize(bytes(model), bytes(path), params) == 0
    yield path
    path.unlink()


def test_adapters_in_slots_say_what_they_say_alone(model_f16: Path, tmp_path: Path) -> None:
    """Three adapters and the bare model, decoded together: each answer is that of plain LoRA, token by token."""
    kinds: list[tuple[int, int, Activation]] = [(1, 8, "prompt"), (2, 4, "prompt"), (3, 8, "user")]
    adapters = {
        make_adapter(tmp_path / f"{seed}.gguf", model_f16, seed=seed, rank=rank): activation
        for seed, rank, activation in kinds
    }
    engine = EngineProcess(model_f16, adapter_slots=3, cache_dir=tmp_path / "cache", context_tokens=256)
    assert engine.slots.num_slots == 3
    asked: dict[int, Question] = {}
    for turns in TURNS:
        asked[engine.generate(*turns, max_tokens=MAX_TOKENS)] = Question(turns)
        for adapter, activation in adapters.items():
            number = engine.generate(*turns, adapter=engine.give(adapter), activation=activation, max_tokens=MAX_TOKENS)
            asked[number] = Question(turns, adapter, activation)
    done = engine.done(len(asked))
    engine.close()
    oracle = Oracle(model_f16, context_tokens=256)
    differences = {number: oracle.difference(question, engine.tokens[number]) for number, question in asked.items()}
    oracle.close()
    print({number: difference for number, difference in differences.items() if difference})  # noqa: T201  # see above
    assert all(difference is None or difference.margin <= NOISE for difference in differences.values()), differences
    assert len({end.text for end in done.values()}) == len(asked)
