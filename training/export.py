"""A trained LoRA as a GGUF file, as llama.cpp and the engine's adapter slots take it."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from agent.weights.adapter import ACTIVATION_KEY, BASE_KEY, SCORES_KEY, check_adapter, check_finite, read_adapter
from agent.weights.base_model import read_base

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_adapter(
    path: Path, matrices: dict[str, tuple[Any, Any]], *, alpha: float, name: str, base: Path, base_sha256: str
) -> None:
    """Writes A and B of layers named as in transformers ("model.layers.0.self_attn.q_proj"), in f16.

    Raises:
        GgufError: the engine would not take the file; the message says why.
    """
    facts = read_base(base.read_bytes())
    heads = gguf.GGUFReader(base).fields
    num_heads = {
        "attn_q": int(heads["llama.attention.head_count"].contents()),
        "attn_k": int(heads["llama.attention.head_count_kv"].contents()),
    }
    tensors = {}
    for layer, (a, b) in matrices.items():
        number, _, linear = layer.removeprefix("model.layers.").partition(".")
        kind = _NAMES[linear]
        paired = _in_pairs(b, num_heads[kind]) if kind in num_heads else b
        tensors[f"blk.{number}.{kind}.weight.lora_a"] = np.ascontiguousarray(a, dtype=np.float16)
        tensors[f"blk.{number}.{kind}.weight.lora_b"] = np.ascontiguousarray(paired, dtype=np.float16)
    _write(path, tensors, facts.architecture, {"general.name": name, BASE_KEY: base_sha256}, alpha)
    data = path.read_bytes()
    adapter = read_adapter(data, label=path.name)
    check_adapter(adapter, facts)
    check_finite(data, adapter)


def write_scores(path: Path, scores: dict[str, float]) -> None:
    """Writes into an adapter's file how it did in its test, by the bases' SHA-256; nodes refuse an unfit pair."""
    adapter = read_adapter(path.read_bytes())
    file = gguf.GGUFReader(path)
    tensors = {tensor.name: np.array(tensor.data) for tensor in file.tensors}
    texts = {key: file.fields[key].contents() for key in ("general.name", BASE_KEY)}
    texts[SCORES_KEY] = json.dumps(scores, sort_keys=True)
    _write(path, tensors, adapter.architecture, texts, adapter.alpha)


def _write(path: Path, tensors: dict[str, Any], architecture: str, texts: dict[str, str], alpha: float) -> None:
    writer = gguf.GGUFWriter(path, arch=architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_string(ACTIVATION_KEY, "user")
    for key, text in texts.items():
        writer.add_string(key, text)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_pairs(b: Any, num_heads: int) -> Any:
    """B of queries or keys with the rows of each head as llama.cpp's rotary embedding pairs them.

    transformers pairs row i with row i + half, llama.cpp row 2i with 2i + 1; converters move the weights' rows, and
    loading a GGUF moves them back.
    """
    rows, rank = b.shape
    return b.reshape(num_heads, 2, rows // num_heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)
