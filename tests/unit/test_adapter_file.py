import time
from pathlib import Path

import numpy as np
import pytest

from agent.weights.adapter import Adapter, check_adapter, check_finite, read_adapter
from agent.weights.base_model import Base, read_base, read_base_file
from agent.weights.gguf import GgufError
from tests.fakes.adapters import adapter_builder, make_adapter
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.tiny_model import write_tiny_model

A, B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"  # of shapes (64, 4) and (4, 64)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture
def base(base_path: Path) -> Base:
    """Its facts."""
    return read_base(base_path.read_bytes())


@pytest.fixture
def builder(base_path: Path) -> GgufBuilder:
    """A sound adapter of rank 4 for the tiny model."""
    return adapter_builder(base_path, rank=4)


def refusal(builder: GgufBuilder) -> str:
    """Why a file is no adapter."""
    with pytest.raises(GgufError) as refused:
        read_adapter(builder.build())
    return str(refused.value).removeprefix("cannot use the adapter: ")


def misfit(builder: GgufBuilder, base: Base) -> str:
    """Why an adapter does not fit the base."""
    adapter = read_adapter(builder.build(), label="the adapter x")
    with pytest.raises(GgufError) as refused:
        check_adapter(adapter, base)
    return str(refused.value).removeprefix("cannot use the adapter x: ")


def test_a_sound_adapter_is_described(base: Base, base_path: Path, tmp_path: Path) -> None:
    """Rank, alpha, activation and pairs; the file may hold any type that can be applied."""
    for dtype in ("f16", "f32", "bf16"):
        path = make_adapter(tmp_path / dtype, base_path, rank=4, alpha=8.0, activation="user", dtype=dtype)
        raw = path.read_bytes()
        adapter = read_adapter(raw)
        check_adapter(adapter, base)
        check_finite(raw, adapter)
        assert (adapter.architecture, adapter.rank, adapter.alpha, adapter.activation) == ("llama", 4, 8.0, "user")
        assert adapter.num_bytes == len(raw)
        assert set(adapter.pairs) == set(base.linear)
        a, b = adapter.pairs["blk.0.ffn_up.weight"]
        assert (a.type, a.shape, b.shape) == (dtype, (64, 4), (4, 128))


def test_adapters_of_some_layers_and_tensors_are_made(base_path: Path, base: Base, tmp_path: Path) -> None:
    """The same seed makes the same bytes, another one others."""
    path = make_adapter(tmp_path / "a", base_path, layers=[1], tensors=("attn_q", "attn_v"), seed=3)
    adapter = read_adapter(path.read_bytes())
    check_adapter(adapter, base)
    assert set(adapter.pairs) == {"blk.1.attn_q.weight", "blk.1.attn_v.weight"}
    assert adapter.activation == "prompt"
    again = make_adapter(tmp_path / "b", base_path, layers=[1], tensors=("attn_q", "attn_v"), seed=3)
    assert again.read_bytes() == path.read_bytes()
    other = make_adapter(tmp_path / "c", base_path, layers=[1], tensors=("attn_q", "attn_v"), seed=4)
    assert other.read_bytes() != path.read_bytes()


@pytest.mark.parametrize(
    ("key", "kind", "content", "why"),
    [
        ("general.type", "string", "model", "general.type is 'model', not 'adapter'"),
        ("general.type", "u32", 7, "general.type is 7, not 'adapter'"),
        ("adapter.type", "string", "control_vector", "adapter.type is 'control_vector', not 'lora'"),
        ("general.architecture", "string", "", "general.architecture is missing"),
        ("adapter.lora.alpha", "u32", 16, "adapter.lora.alpha is u32, not f32"),
        ("adapter.lora.alpha", "f64", 16.0, "adapter.lora.alpha is f64, not f32"),
        ("adapter.lora.alpha", "f32", float("nan"), "adapter.lora.alpha is nan"),
        ("adapter.lora.alpha", "f32", float("inf"), "adapter.lora.alpha is inf"),
        ("adapter.lora.alpha", "f32", 0.0, "adapter.lora.alpha is 0.0; it must be above 0"),
        ("adapter.alora.invocation_tokens", "[u32]", [1, 2], "it is an aLoRA"),
        ("shoal.adapter.activation", "string", "later", "shoal.adapter.activation is 'later', neither"),
        ("shoal.adapter.activation", "u32", 1, "shoal.adapter.activation is 1, neither"),
        ("shoal.adapter.scores", "u32", 1, "shoal.adapter.scores is no JSON object"),
        ("shoal.adapter.scores", "string", "[0.5]", "shoal.adapter.scores is no JSON object"),
        ("shoal.adapter.scores", "string", '{"base": 0.5}', "shoal.adapter.scores has 'base': 0.5, not a SHA-256"),
        ("shoal.adapter.scores", "string", f'{{"{"a" * 64}": 1.5}}', "1.5, not a SHA-256 and a number from 0 to 1"),
    ],
)
def test_metadata_that_llama_cpp_dies_of_or_misreads_is_refused(
    builder: GgufBuilder, key: str, kind: str, content: object, why: str
) -> None:
    """Each key has one type and few values."""
    assert why in refusal(builder.key(key, kind, content))


def test_missing_metadata_is_refused(builder: GgufBuilder) -> None:
    """Without alpha llama.cpp takes 0, which means another scale."""
    del builder.metadata["adapter.lora.alpha"]
    assert refusal(builder) == "adapter.lora.alpha is missing, not f32"


def test_tensors_that_kill_are_refused(builder: GgufBuilder) -> None:
    """Other types than numbers, other dimensions than two, unequal ranks."""
    sound = dict(builder.tensors)
    for kind in ("i32", "q8_0", "f64"):
        assert f"{A} has 2 dimensions of type {kind}; 2 of f16, f32, bf16" in refusal(builder.tensor(A, kind, (64, 4)))
    assert "has 3 dimensions" in refusal(builder.tensor(A, "f16", (64, 4, 2)))
    assert "has 1 dimensions" in refusal(builder.tensor(A, "f16", (64,)))
    assert "attn_q.weight has the ranks 8 and 4" in refusal(builder.tensor(A, "f16", (64, 8)))
    builder.tensors = dict(sound)
    assert "has the ranks 257 and 257" in refusal(builder.tensor(A, "f16", (64, 257)).tensor(B, "f16", (257, 64)))
    builder.tensors = {name: tensor for name, tensor in sound.items() if name != B}
    assert refusal(builder) == "blk.0.attn_q.weight has lora_a only"
    builder.tensors = {}
    assert refusal(builder) == "it has no tensors"
    builder.tensors = sound
    assert "is neither .lora_a nor .lora_b" in refusal(builder.tensor("blk.0.attn_norm.weight", "f32", (64,)))


def test_ranks_may_differ_between_pairs(builder: GgufBuilder, base: Base) -> None:
    """As adapters with a rank for each layer have them; the largest is told."""
    raw = builder.tensor(A, "f16", (64, 32)).tensor(B, "f16", (32, 64)).build()
    adapter = read_adapter(raw)
    check_adapter(adapter, base)
    assert adapter.rank == 32


def test_an_adapter_must_fit_its_base(builder: GgufBuilder, base: Base) -> None:
    """The architecture, the names and the shapes; norms and the embedding are no linear tensors."""
    sound = dict(builder.tensors)
    builder.key("general.architecture", "string", "qwen2")
    assert misfit(builder, base) == "it is for the architecture qwen2, the base is llama"
    builder.key("general.architecture", "string", "llama")
    assert "changes blk.0.attn_q.weight as one of 32 by 64" in misfit(builder.tensor(A, "f16", (32, 4)), base)
    builder.tensors = dict(sound)
    assert "as one of 64 by 65, the base has 64 by 64" in misfit(builder.tensor(B, "f16", (4, 65)), base)
    for name, width in (("blk.0.attn_norm.weight", 64), ("token_embd.weight", 104), ("blk.9.attn_q.weight", 64)):
        builder.tensors = dict(sound)
        builder.tensor(f"{name}.lora_a", "f16", (64, 4)).tensor(f"{name}.lora_b", "f16", (4, width))
        assert misfit(builder, base) == f"{name} is no linear tensor of the base"


@pytest.mark.parametrize("dtype", ["f16", "f32", "bf16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [A, B])
def test_a_single_bad_weight_is_found(base_path: Path, dtype: str, value: float, name: str) -> None:
    """In any place, of any type and sign; the tensor is named."""
    builder = adapter_builder(base_path, rank=4, dtype=dtype)
    number, shape, data = builder.tensors[name]
    numbers = np.frombuffer(data, {"f16": "<f2", "f32": "<f4", "bf16": "<u2"}[dtype]).copy()
    numbers[-1] = (np.array([value], "<f4").view("<u4") >> 16)[0] if dtype == "bf16" else value
    builder.tensors[name] = (number, shape, numbers.tobytes())
    raw = builder.build()
    with pytest.raises(GgufError, match=f"{name} has weights that are infinite or not a number"):
        check_finite(raw, read_adapter(raw))


def test_weights_must_fit_f16_scaled(base_path: Path) -> None:
    """Slots hold B as f16, multiplied by alpha / rank."""
    builder = adapter_builder(base_path, rank=4, alpha=16.0, dtype="f32")
    for name, value, fits in ((A, 60000.0, True), (A, 70000.0, False), (B, 16000.0, True), (B, 17000.0, False)):
        number, shape, data = builder.tensors[name]
        raw = np.float32(value).tobytes() + data[4:]
        builder.tensors[name] = (number, shape, raw)
        file = builder.build()
        builder.tensors[name] = (number, shape, data)
        if fits:
            check_finite(file, read_adapter(file))
        else:
            with pytest.raises(GgufError, match=f"{name} has weights up to {value:g}, .*: too large for f16"):
                check_finite(file, read_adapter(file))


def test_types_may_be_mixed(builder: GgufBuilder) -> None:
    """Each tensor is then looked at as what it is."""
    raw = builder.tensor(A, "f32", (64, 4)).tensor(B, "bf16", (4, 64)).build()
    check_finite(raw, read_adapter(raw))


def test_what_lies_between_tensors_is_no_weight(builder: GgufBuilder) -> None:
    """Padding may look like NaN."""
    builder.alignment = 4096
    raw = bytearray(builder.key("general.alignment", "u32", 4096).build())
    adapter = read_adapter(bytes(raw))
    for pair in adapter.pairs.values():
        for tensor in pair:
            end = tensor.offset + tensor.num_bytes
            raw[end : end + -end % 4096] = b"\xff" * (-end % 4096)
    check_finite(bytes(raw), adapter)


def test_looking_at_an_adapter_is_fast(model: Path, tmp_path: Path) -> None:
    """5 MB in a few milliseconds, so that it can be done whenever one is loaded."""
    base = read_base_file(model)
    raw = make_adapter(tmp_path / "a.gguf", model).read_bytes()
    times: dict[str, list[float]] = {"read": [], "fit": [], "finite": []}
    for _ in range(5):
        marks = [time.perf_counter()]
        adapter: Adapter = read_adapter(raw)
        marks.append(time.perf_counter())
        check_adapter(adapter, base)
        marks.append(time.perf_counter())
        check_finite(raw, adapter)
        marks.append(time.perf_counter())
        for name, start, end in zip(times, marks, marks[1:], strict=False):
            times[name].append((end - start) * 1000)
    # Measured 0.8, 0.02 and 0.3; the limits leave room for a busy machine.
    assert min(times["read"]) < 10
    assert min(times["fit"]) < 1
    assert min(times["finite"]) < 5
