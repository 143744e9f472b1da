"""What an engine on trial says of texts: how probable they are, whether they fit, and what is wrong with a template."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.engine import frames
from tests.fakes.adapters import encode, make_adapter
from tests.fakes.engine import EngineProcess
from tests.fakes.tiny_model import tiny_model

TINY: dict[str, Any] = {"dtype": "f32", "context_tokens": 128}
NUM_VOCAB = 5 + 94 + 5  # what `tiny_model` knows
CHAT = [("user", "abab"), ("assistant", "cdcd")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the files of this module."""
    return tmp_path_factory.mktemp("scoring")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EngineProcess]:
    """An engine whose model finds all tokens equally likely, but for what an adapter changes."""
    builder = tiny_model(**TINY)
    kind, shape, _ = builder.tensors["output_norm.weight"]
    builder.tensors["output_norm.weight"] = (kind, shape, encode(np.full(shape, 1e-6), "f32"))
    (folder / "even.gguf").write_bytes(builder.build())
    running = EngineProcess(folder / "even.gguf", context_tokens=128)
    yield running
    running.close()


def score(engine: EngineProcess, **fields: Any) -> frames.Scored | frames.Rejected:
    """What it says."""
    engine.send(frames.Score(job=1, **fields))
    answer = engine.next()
    assert isinstance(answer, frames.Scored | frames.Rejected)
    return answer


def test_a_model_without_an_opinion_needs_as_much_for_each_token(engine: EngineProcess) -> None:
    """The logarithm of the size of its vocabulary; the first token counts for nothing, nor does that of a window."""
    said = score(engine, text="xyz" * 30, num_decode=4)
    assert isinstance(said, frames.Scored)
    assert said.num_tokens == 89
    assert said.nats == pytest.approx(89 * math.log(NUM_VOCAB), rel=1e-3)
    assert said.decode_tok_s is not None
    assert said.decode_tok_s > 0
    assert score(engine, text="xyz" * 30) == frames.Scored(job=1, num_tokens=89, nats=said.nats)
    windows = score(engine, text="xyz" * 300)
    assert isinstance(windows, frames.Scored)
    assert 900 - 10 < windows.num_tokens < 900 - 1
    empty = score(engine, text="")
    assert isinstance(empty, frames.Scored)
    assert (empty.num_tokens, empty.nats) == (0, 0.0)


def test_conversations_are_scored_as_the_template_has_them(engine: EngineProcess) -> None:
    """With its own words; an adapter that is not here is no reason to end."""
    said = score(engine, turns=CHAT)
    assert isinstance(said, frames.Scored)
    assert said.num_tokens > len("ababcdcd")
    assert (said.unknown_marks, said.lacks_marks) == (0, False)
    lost = score(engine, turns=CHAT, adapter="0" * 64)
    assert isinstance(lost, frames.Rejected)


def test_an_adapter_changes_what_is_probable(folder: Path) -> None:
    """It acts on all of a text; without it all is as before."""
    model, adapter = folder / "tiny.gguf", folder / "adapter.gguf"
    model.write_bytes(tiny_model(**TINY).build())
    make_adapter(adapter, model)
    engine = EngineProcess(model, context_tokens=128)
    sha256 = engine.give(adapter)
    plain, adapted, again = (score(engine, text="ab cd" * 9, adapter=name) for name in (None, sha256, None))
    engine.close()
    assert plain == again != adapted


@pytest.mark.parametrize(
    ("template", "unknown", "lacks"),
    [
        ("{% for m in messages %}<|start|>{{ m.content }}<|eot|>{% endfor %}", 2, True),
        ("{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}", 0, True),
        ("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}", 0, False),
        ("<|im_start|>{{ messages[0].content }}", None, False),
    ],
)
def test_a_template_of_another_model_is_seen(folder: Path, template: str, unknown: int | None, lacks: bool) -> None:
    """By marks that are no tokens here, by having none where the model's own has some, by leaving out what was said."""
    model = folder / "templated.gguf"
    own = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    model.write_bytes(tiny_model(**TINY).key("tokenizer.chat_template", "string", own).build())
    engine = EngineProcess(model, context_tokens=128, chat_template=template)
    said = score(engine, turns=CHAT)
    engine.close()
    if unknown is None:
        assert isinstance(said, frames.Rejected)
        assert said.message == "cannot score a text: it leaves a turn out"
        return
    assert isinstance(said, frames.Scored)
    assert (said.unknown_marks, said.lacks_marks) == (unknown, lacks)


def test_a_model_without_numbers_has_no_score(folder: Path) -> None:
    """Its engine lives, and tells of texts that need no model."""
    builder = tiny_model(**TINY)
    kind, shape, data = builder.tensors["blk.1.ffn_norm.weight"]
    builder.tensors["blk.1.ffn_norm.weight"] = (kind, shape, b"\xff\xff\xff\x7f" * (len(data) // 4))
    (folder / "nan.gguf").write_bytes(builder.build())
    engine = EngineProcess(folder / "nan.gguf", context_tokens=128)
    said = score(engine, text="abc")
    engine.send(frames.Judge(job=2, text='{"a": 1}', schemas=[{"type": "object"}, {"type": "array"}]))
    judged = engine.next()
    engine.close()
    assert isinstance(said, frames.Scored)
    assert said.nats is None
    assert judged == frames.Judged(2, [True, False])
