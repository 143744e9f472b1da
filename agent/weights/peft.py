"""A LoRA as PEFT saves it, made into a GGUF adapter. Names and permutation are those of llama.cpp's own converters
(convert_lora_to_gguf.py, and `LlamaModel.permute` in convert_hf_to_gguf.py).

The same folder gives the same bytes. Numbers become f16, as adapter slots hold them: then every way to compute with the
adapter gives the same answers. What is too large for that, `check_finite` refuses.

Not supported: DoRA, rank-stabilised scaling, a scale per layer, biases and trained whole modules: each of them would be
dropped in silence, or scaled wrongly.
"""

import re
from typing import TYPE_CHECKING, Any

import msgspec

from agent.errors import ModelError
from agent.weights.base_model import Base
from agent.weights.gguf import Data
from agent.weights.gguf_writer import Kind, NewTensor, key, whole
from agent.weights.safetensors import SafeTensor, read_safetensors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float16]

# Their linear layers have these names in transformers. Of q and k, "llama" has the rows in another order.
ARCHITECTURES = ("llama", "qwen2", "qwen3")
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_KEY = re.compile(r"base_model\.model\.(?:model\.)?layers\.(\d{1,4})\.(\w+\.\w+)\.lora_([AB])\.weight")


class _Settings(msgspec.Struct):
    """adapter_config.json, as far as it matters here."""

    peft_type: str
    lora_alpha: float
    use_dora: bool = False
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    lora_bias: bool = False
    bias: str = "none"
    alpha_pattern: dict[str, Any] = {}
    modules_to_save: list[str] | None = None


def convert_peft(settings: bytes, weights: Data, base: Base, *, label: str) -> bytes:
    """The GGUF adapter for a base model. `settings` is adapter_config.json, `weights` adapter_model.safetensors.

    Raises:
        ModelError: it is no LoRA that can be converted; the message begins "cannot use {label}: ".
    """
    if base.architecture not in ARCHITECTURES:
        raise ModelError(
            f"cannot use {label}: PEFT adapters for the architecture {base.architecture} cannot be converted here, only"
            f" for {', '.join(ARCHITECTURES)}; convert it with llama.cpp's convert_lora_to_gguf.py"
        )
    alpha = _alpha_of(settings, label)
    tensors = []
    for name, (tensor, data) in read_safetensors(weights, label).items():
        found = _KEY.fullmatch(name)
        if found is None or found[2] not in _NAMES or len(tensor.shape) != 2:
            raise ModelError(
                f"cannot use {label}: {name!r} of shape {tensor.shape} is no half of a linear layer's pair"
            )
        layer, part, half = int(found[1]), _NAMES[found[2]], found[3].lower()
        target = f"blk.{layer}.{part}.weight"
        numbers = _numbers(tensor, data)
        if half == "b" and part in ("attn_q", "attn_k") and base.architecture == "llama":
            numbers = _permuted(numbers, base.head_k_length, f"cannot use {label}: {name!r}")
        order = (layer, list(_NAMES.values()).index(part), half)
        row = NewTensor(f"{target}.lora_{half}", "f16", tensor.shape[::-1], numbers.nbytes)
        tensors.append((order, (row, numbers.tobytes())))
    keys = [
        key("general.architecture", Kind.STRING, base.architecture),
        key("general.type", Kind.STRING, "adapter"),
        key("adapter.type", Kind.STRING, "lora"),
        key("adapter.lora.alpha", Kind.F32, alpha),
    ]
    return whole(keys, [row for _, row in sorted(tensors, key=lambda item: item[0])])


def _alpha_of(raw: bytes, label: str) -> float:
    try:
        settings = msgspec.json.decode(raw, type=_Settings)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"cannot use {label}: adapter_config.json is not what PEFT writes: {error}") from None
    if settings.peft_type != "LORA":
        raise ModelError(f"cannot use {label}: peft_type is {settings.peft_type!r}, not 'LORA'")
    plain = _Settings(peft_type="LORA", lora_alpha=settings.lora_alpha)
    for field in _Settings.__struct_fields__:
        found = getattr(settings, field)
        if found and found != getattr(plain, field):
            raise ModelError(f"cannot use {label}: {field} is {found!r}, which is not supported")
    return settings.lora_alpha


def _numbers(tensor: SafeTensor, data: memoryview) -> "Numbers":
    import numpy as np  # the daemon has none

    if tensor.dtype == "BF16":  # the upper half of an f32
        numbers = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        numbers = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[tensor.dtype])
    with np.errstate(over="ignore"):
        return numbers.astype("<f2").reshape(tensor.shape)


def _permuted(rows: "Numbers", head_length: int, what: str) -> "Numbers":
    """Rows in the order in which llama.cpp rotates them: of each head the halves' rows in turn."""
    if not head_length or head_length % 2 or rows.shape[0] % head_length:
        raise ModelError(f"{what} has {rows.shape[0]} rows, which are no heads of {head_length}")
    return rows.reshape(-1, 2, head_length // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
