"""The tensors of a model with llama's layers, and whether adapters can be held in slots next to them."""

import re

from agent.weights.dimensions import Dimensions
from agent.weights.gguf import GgufFile, Tensor

# llama.cpp 0.3.36 computes with each of them, also from random bytes, and dies with the others: integers, f64,
# q8_1 and q8_k, which are for what is in between. nvfp4 would need a look at its further tensors.
WEIGHT_TYPES = {
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "mxfp4",
    "q1_0", "q2_0", "tq1_0", "tq2_0", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq1_s", "iq1_m", "iq4_nl",
    "iq4_xs",
}  # fmt: skip
_LINEAR = re.compile(r"(blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down))|output)\.weight")
_QKV = ("attn_q", "attn_k", "attn_v")


def linear_tensors(file: GgufFile) -> dict[str, Tensor]:
    """The matrices that llama.cpp applies a LoRA to."""
    return {name: tensor for name, tensor in file.tensors.items() if len(tensor.shape) == 2 and _LINEAR.fullmatch(name)}


def check_types(file: GgufFile) -> None:
    """Vectors are f32, everything else has a type that a graph can multiply with.

    Raises:
        GgufError: a tensor has another.
    """
    for tensor in file.tensors.values():
        if len(tensor.shape) == 1 and tensor.type != "f32":
            raise file.wrong(f"{tensor.name} has the type {tensor.type}; a tensor of one dimension must be f32")
        if tensor.name == "token_types.weight" and tensor.type not in ("f32", "f16"):
            raise file.wrong(f"{tensor.name} has the type {tensor.type}; it is added and must be f32 or f16")
        if tensor.type not in WEIGHT_TYPES:
            raise file.wrong(f"{tensor.name} has the type {tensor.type}, which is none for weights")


def check_llama(file: GgufFile, sizes: Dimensions, num_vocab: int) -> None:
    """Everything that llama.cpp's architecture `llama` needs, with the shapes that it computes with.

    Raises:
        GgufError: a tensor is missing or has another shape, or the sizes do not fit each other.
    """
    for what, numbers in (
        ("attention.head_count", sizes.num_heads),
        ("attention.head_count_kv", sizes.num_kv_heads),
        ("feed_forward_length", sizes.ffn_lengths),
    ):
        if len(set(numbers)) > 1 or not numbers[0]:
            raise file.wrong(f"llama.{what} is {numbers[0]}…{numbers[-1]}; llama has one number above 0 for all layers")
    heads, kv_heads = sizes.num_heads[0], sizes.num_kv_heads[0]
    if heads % kv_heads:
        raise file.wrong(f"{heads} heads cannot share {kv_heads} key-value heads")
    if file.types.get("llama.attention.layer_norm_rms_epsilon") != "f32":
        raise file.wrong("llama.attention.layer_norm_rms_epsilon is missing or not f32")
    for name, shape in _llama_shapes(sizes, num_vocab, fused="blk.0.attn_qkv.weight" in file.tensors).items():
        tensor = file.tensors.get(name)
        if tensor is None:
            raise file.wrong(f"the tensor {name} is missing")
        if tensor.shape != shape:
            raise file.wrong(f"{name} has the shape {tensor.shape}, but the metadata asks for {shape}")
    output = file.tensors.get("output.weight")
    if output is not None and output.shape != (sizes.embedding_length, num_vocab):
        raise file.wrong(f"output.weight has the shape {output.shape} for {num_vocab} tokens")


def _llama_shapes(sizes: Dimensions, num_vocab: int, *, fused: bool) -> dict[str, tuple[int, ...]]:
    """The shape that each required tensor must have."""
    width, ffn, experts = sizes.embedding_length, sizes.ffn_lengths[0], sizes.num_experts
    q, k = sizes.head_k_length * sizes.num_heads[0], sizes.head_k_length * sizes.num_kv_heads[0]
    layer: dict[str, tuple[int, ...]] = {"attn_norm": (width,), "ffn_norm": (width,), "attn_output": (q, width)}
    layer |= (
        {"attn_qkv": (width, q + 2 * k)}
        if fused
        else dict(zip(_QKV, ((width, q), (width, k), (width, k)), strict=True))
    )
    if experts:
        layer |= {"ffn_gate_inp": (width, experts), "ffn_up_exps": (width, ffn, experts)}
        layer |= {"ffn_down_exps": (ffn, width, experts)}
    else:
        layer |= {"ffn_gate": (width, ffn), "ffn_up": (width, ffn), "ffn_down": (ffn, width)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (width, num_vocab), "output_norm.weight": (width,)}
    for number in range(sizes.num_layers):
        shapes |= {f"blk.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def find_slots_obstacle(file: GgufFile, architecture: str, sizes: Dimensions) -> str | None:
    """Why adapters cannot be held in slots of the running model; None where they can.

    Slots are llama.cpp's architecture `graniteswitch`: `llama` with q, k and v in one tensor, without biases, rotation
    factors and experts. A model is rewritten as one, so it must lose nothing by it.
    """
    if architecture != "llama":
        return f"the architecture is {architecture}, not llama"
    if sizes.num_experts:
        return f"it has {sizes.num_experts} experts"
    for name in file.tensors:
        if name.endswith(".bias"):
            return f"it has the bias {name}"
        if "rope_f" in name:
            return f"it has the rotation factors {name}"
        if name.endswith((".scale", ".input_scale")):
            return f"it has the scale {name}"
    for number in range(sizes.num_layers):
        types = [file.tensors[name].type for part in _QKV if (name := f"blk.{number}.{part}.weight") in file.tensors]
        if len(types) < len(_QKV):
            return f"q, k and v of layer {number} are one tensor"
        if len(set(types)) > 1:
            return f"q, k and v of layer {number} have the types {', '.join(types)}"
    if not file.metadata.get("llama.rope.scaling.finetuned", True):
        return "llama.rope.scaling.finetuned is false, which graniteswitch takes for no rotation"
    return None
