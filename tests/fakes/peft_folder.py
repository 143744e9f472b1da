"""LoRAs as PEFT saves them, made from the same numbers as a GGUF adapter."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.weights.gguf import parse
from tests.fakes.adapters import encode

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]], **changes: Any) -> bytes:
    """A file of tensors: dtype, shape and data, by name. `changes` replace entries of the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    raw = json.dumps(header | changes).encode()
    return struct.pack("<Q", len(raw)) + raw + b"".join(data for _, _, data in tensors.values())


def write_peft(folder: Path, gguf: bytes, *, head_length: int, dtype: str = "f32", **settings: Any) -> Path:
    """Writes what PEFT would have saved of the LoRA that a GGUF file of f16 holds."""
    tensors = {}
    file = parse(gguf)
    for name, tensor in file.tensors.items():
        _, layer, part, _, half = name.split(".")
        numbers = np.frombuffer(gguf, "<f2", tensor.num_bytes // 2, tensor.offset).reshape(tensor.shape[::-1])
        if half == "lora_b" and part in ("attn_q", "attn_k"):
            numbers = unpermuted(numbers, head_length)
        key = f"base_model.model.model.layers.{layer}.{NAMES[part]}.lora_{half[-1].upper()}.weight"
        tensors[key] = (DTYPES[dtype], list(numbers.shape), encode(numbers, dtype))
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": file.metadata["adapter.lora.alpha"], "bias": "none"}
    config |= {"base_model_name_or_path": "somewhere/else", "modules_to_save": None, "alpha_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder


def unpermuted(rows: npt.NDArray[Any], head_length: int) -> npt.NDArray[Any]:
    """Rows of q or k as transformers has them: of each head the even ones of llama.cpp first, then the odd ones."""
    heads = rows.reshape(-1, head_length, rows.shape[1])
    return np.concatenate([heads[:, 0::2], heads[:, 1::2]], axis=1).reshape(rows.shape)
