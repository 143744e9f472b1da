"""Adapters in the engine: what is mapped, checked and multiplied."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from agent.engine.adapters import Adapter, Adapters
from agent.errors import ModelError
from agent.weights.base_model import Base, read_base_file
from tests.fakes.adapters import adapter_builder, encode, make_adapter
from tests.fakes.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def base(base_file: Path) -> Base:
    """What is known of it."""
    return read_base_file(base_file)


def opened(path: Path) -> int:
    """A descriptor, as the daemon sends it."""
    return os.open(path, os.O_RDONLY)


@pytest.mark.parametrize("dtype", ["f16", "f32", "bf16"])
def test_pairs_hold_the_whole_change(tmp_path: Path, base_file: Path, base: Base, dtype: str) -> None:
    """B · A, and alpha / rank, whatever the type of the file."""
    path = make_adapter(tmp_path / "a", base_file, rank=4, alpha=8.0, layers=[1], tensors=("attn_v",), dtype=dtype)
    adapter = Adapter(opened(path), base, 7)
    random = np.random.default_rng(1)
    a = random.normal(0, 64**-0.5, (4, 64))
    b = random.normal(0, 0.4 * (4 / 8.0) * 4**-0.5, (32, 4))
    (name,) = adapter.pairs
    pair = adapter.pairs[name]
    product = pair.scale * pair.b.astype(np.float64) @ pair.a.astype(np.float64)
    assert (name, adapter.rank, adapter.number, adapter.activation) == ("blk.1.attn_v", 4, 7, "prompt")
    assert (pair.a.shape, pair.b.shape) == ((4, 64), (32, 4))
    np.testing.assert_allclose(product, 2 * b @ a, atol=0.02 if dtype == "bf16" else 1e-3)


def test_an_adapter_is_kept_as_long_as_somebody_has_it(tmp_path: Path, base_file: Path, base: Base) -> None:
    """Forgetting it does not take it from sequences that run; the last one closes the file."""
    adapters = Adapters(base)
    fd = opened(make_adapter(tmp_path / "a", base_file))
    adapters.add("a", fd)
    in_use = adapters.find("a")
    adapters.forget("a")
    adapters.forget("a")
    with pytest.raises(ModelError, match="does not have it"):
        adapters.find("a")
    assert os.fstat(fd)
    assert np.isfinite(in_use.pairs["blk.0.attn_q"].a).all()
    del in_use
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_an_adapter_that_comes_again_has_another_number(tmp_path: Path, base_file: Path, base: Base) -> None:
    """What was computed with the first one is not taken for the second's."""
    adapters = Adapters(base)
    path = make_adapter(tmp_path / "a", base_file)
    numbers = set()
    for _ in range(3):
        adapters.add("a", opened(path))
        numbers.add(adapters.find("a").number)
    assert len(numbers) == 3


def test_one_that_cannot_be_used_says_why(tmp_path: Path, base_file: Path, base: Base) -> None:
    """The reason is kept for those who ask for it, and its file is closed."""
    spoiled = adapter_builder(base_file)
    spoiled.tensor("blk.0.attn_q.weight.lora_a", "f16", (64, 8), encode(np.full((8, 64), np.nan), "f16"))
    contents = {
        "nan": (spoiled.build(), "infinite or not a number"),
        "short": (adapter_builder(base_file).build()[:-500], "cannot use the adapter"),
        "empty": (b"", "cannot"),
        "model": (base_file.read_bytes(), "general.type is 'model'"),
    }
    adapters = Adapters(base)
    for name, (content, reason) in contents.items():
        (tmp_path / name).write_bytes(content)
        fd = opened(tmp_path / name)
        adapters.add(name, fd)
        with pytest.raises(ModelError, match=reason):
            adapters.find(name)
        gc.collect()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
