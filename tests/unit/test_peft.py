"""PEFT folders: the same adapter as its GGUF, the same bytes each time, and lies in headers refused."""

import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ModelError
from agent.weights.adapter import check_adapter, check_finite, read_adapter
from agent.weights.base_model import Base, read_base_file
from agent.weights.gguf import parse
from agent.weights.peft import convert_peft
from agent.weights.safetensors import MAX_HEADER_BYTES, read_safetensors
from tests.fakes.adapters import adapter_builder
from tests.fakes.peft_folder import safetensors, write_peft
from tests.fakes.tiny_model import tiny_qwen2, write_tiny_model

HEAD_LENGTH = 16


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of the llama architecture."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def base(base_file: Path) -> Base:
    """What is known of it."""
    return read_base_file(base_file)


def convert(folder: Path, base: Base) -> bytes:
    """The GGUF adapter that a folder becomes."""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return convert_peft((folder / "adapter_config.json").read_bytes(), weights, base, label="it")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_peft_folder_becomes_the_adapter_that_it_was(tmp_path: Path, base_file: Path, base: Base, dtype: str) -> None:
    """Every tensor has the bytes of the GGUF file that llama.cpp's converter makes, in f16; alpha is kept."""
    original = adapter_builder(base_file, alpha=12.0).build()
    folder = write_peft(tmp_path / "peft", original, head_length=HEAD_LENGTH, dtype=dtype)
    made = convert(folder, base)
    assert convert(folder, base) == made
    adapter = read_adapter(made)
    check_adapter(adapter, base)
    check_finite(made, adapter)
    assert (adapter.alpha, adapter.rank, adapter.architecture) == (12.0, 8, "llama")
    before, after = parse(original), parse(made)
    assert before.tensors.keys() == after.tensors.keys()
    for name, tensor in before.tensors.items():
        other = after.tensors[name]
        assert tensor.shape == other.shape
        ours = original[tensor.offset : tensor.offset + tensor.num_bytes]
        assert made[other.offset : other.offset + other.num_bytes] == ours, name


def test_rows_of_q_and_k_are_reordered_as_llama_cpp_does(tmp_path: Path, base_file: Path, base: Base) -> None:
    """Row 1 of a head is, in llama.cpp's order, what transformers has at half the head's length."""
    folder = write_peft(tmp_path / "peft", adapter_builder(base_file, layers=[0]).build(), head_length=HEAD_LENGTH)
    q = np.repeat(np.arange(64, dtype="<f4")[:, None], 8, axis=1)
    tensors: dict[str, tuple[str, list[int], bytes]] = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ("F32", [8, 64], bytes(4 * 8 * 64)),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": ("F32", [64, 8], q.tobytes()),
    }
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    made = convert(folder, base)
    b = parse(made).tensors["blk.0.attn_q.weight.lora_b"]
    rows = np.frombuffer(made, "<f2", 64 * 8, b.offset).reshape(64, 8)[:, 0].tolist()
    assert rows[:6] == [0, 8, 1, 9, 2, 10]
    assert rows[16:20] == [16, 24, 17, 25]
    (tmp_path / "qwen2").write_bytes(tiny_qwen2().build())
    other = convert(folder, read_base_file(tmp_path / "qwen2"))  # rotated as transformers does: nothing to reorder
    b = parse(other).tensors["blk.0.attn_q.weight.lora_b"]
    assert np.frombuffer(other, "<f2", 64 * 8, b.offset).reshape(64, 8)[:4, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"use_rslora": True}, "use_rslora"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"lora_alpha": "16"}, "not what PEFT writes"),
        ({"lora_alpha": None}, "not what PEFT writes"),
    ],
)
def test_what_would_be_dropped_or_scaled_wrongly_is_refused(
    tmp_path: Path, base_file: Path, base: Base, settings: dict[str, Any], reason: str
) -> None:
    """Each of these would load, and answer worse than it was trained to."""
    folder = write_peft(tmp_path / "peft", adapter_builder(base_file).build(), head_length=HEAD_LENGTH, **settings)
    with pytest.raises(ModelError, match=reason) as refused:
        convert(folder, base)
    assert str(refused.value).startswith("cannot use it: ")


def test_numbers_too_large_for_f16_are_refused(tmp_path: Path, base_file: Path, base: Base) -> None:
    """They become infinite, which the check that follows finds."""
    folder = write_peft(tmp_path / "peft", adapter_builder(base_file).build(), head_length=HEAD_LENGTH)
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", 1e30))
    made = convert(folder, base)
    with pytest.raises(ModelError, match="infinite"):
        check_finite(made, read_adapter(made))


ONE: dict[str, tuple[str, list[int], bytes]] = {"a": ("F32", [2, 2], bytes(16)), "b": ("F16", [4], bytes(8))}


def entry(dtype: str = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), **more: Any) -> dict[str, Any]:
    """A line of the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


@pytest.mark.parametrize(
    "change",
    [
        entry(offsets=(0, 17)), entry(offsets=(8, 24)), entry(offsets=(16, 0)), entry(offsets=(-16, 0)),
        entry(offsets=(0, 2**63)), entry(shape=(2, 3)), entry(shape=(0, 2)), entry(shape=(-2, -2)),
        entry(shape=(2**40, 2**40)), entry(dtype="F64", offsets=(0, 32)), entry(dtype="I8"), entry(more=1),
        entry(offsets=(0,)), entry(shape="22"), {}, [], None, "x", 5,
    ],
    ids=str,
)  # fmt: skip
def test_a_header_that_lies_is_refused(change: Any) -> None:
    """Offsets, shapes and types that do not fit the file or each other."""
    with pytest.raises(ModelError, match=r"^cannot use it: "):
        read_safetensors(safetensors(ONE, a=change), "it")


def archive(tmp_path: Path) -> bytes:
    """A zip bomb under another name."""
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("zeros", bytes(1 << 24))
    return (tmp_path / "bomb").read_bytes()


FILES: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "short": lambda _: b"\x10\0\0",
    "zip bomb": archive,
    "long header": lambda _: struct.pack("<Q", 2**63) + b"{}",
    "header over the cap": lambda _: struct.pack("<Q", MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 2),
    "nested": lambda _: struct.pack("<Q", 200_001) + b'{"a":' + b"[" * 199_996,
    "no JSON": lambda _: struct.pack("<Q", 4) + b"\xff\xff\xff\xff",
    "nothing inside": lambda _: safetensors({}),
    "more behind": lambda _: safetensors(ONE) + b"x",
    "cut": lambda _: safetensors(ONE)[:-1],
    "pickle": lambda _: b"\x80\x04\x95" + bytes(100),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, name: str) -> None:
    """With a sentence, without taking memory for what it claims."""
    with pytest.raises(ModelError, match=r"^cannot use it: "):
        read_safetensors(FILES[name](tmp_path), "it")


@given(st.binary(max_size=300), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(noise: bytes, at: int) -> None:
    """Whatever stands in a file, there is no other error; what is read fills the file without overlap."""
    good = safetensors(ONE)
    for data in (noise, good[:at] + noise + good[at + len(noise) :]):
        try:
            found = read_safetensors(data, "it")
        except ModelError as error:
            assert str(error).startswith("cannot use it: ")
        else:
            length = int.from_bytes(data[:8], "little")
            assert sum(len(content) for _, content in found.values()) == len(data) - 8 - length


def test_a_name_that_is_no_half_of_a_pair_is_refused(tmp_path: Path, base_file: Path, base: Base) -> None:
    """Embeddings, heads and unknown layers would be dropped in silence."""
    folder = write_peft(tmp_path / "peft", adapter_builder(base_file).build(), head_length=HEAD_LENGTH)
    for name in (
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.layers.0.x.y.lora_A.weight",
        "a/../b",
    ):
        weights = safetensors({name: ("F32", [2, 2], bytes(16))})
        with pytest.raises(ModelError, match="is no half of a linear layer's pair"):
            convert_peft((folder / "adapter_config.json").read_bytes(), weights, base, label="it")
    assert json.loads((folder / "adapter_config.json").read_text())["lora_alpha"] == 16
