"""What is known of llama.cpp's architectures by name (llama-arch.cpp and src/models/ of llama-cpp-python 0.3.36).

`llama` is checked to the last tensor. Of other dense ones the layers must be alike; of the rest the sizes, the
vocabulary and the types are checked, and what else they need llama.cpp says itself, mostly without dying.
"""

from agent.weights.dimensions import Dimensions
from agent.weights.gguf import GgufFile

# They turn a text into a vector.
ENCODERS = {
    "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3", "eurobert",
    "gemma-embedding", "llama-embed",
}  # fmt: skip
# They are no text models of their own, or not ones that write from left to right.
REFUSED = {
    "t5": "it has an encoder and a decoder",
    "t5encoder": "it is half of a model with an encoder and a decoder",
    "eagle3": "it only drafts for another model",
    "dflash": "it only drafts for another model",
    "gemma4-assistant": "it only drafts for another model",
    "clip": "it reads pictures",
    "wavtokenizer-dec": "it makes sound",
    "qwen3tts": "it makes sound",
    "pockettts": "it makes sound",
    "dream": "it writes by diffusion",
    "llada": "it writes by diffusion",
    "llada-moe": "it writes by diffusion",
    "rnd1": "it writes by diffusion",
    "graniteswitch": "it is rewritten for adapter slots already",
}
# All layers have attention, a feed-forward part and the same tensors.
DENSE = {
    "arcee", "baichuan", "bert", "cohere2", "command-r", "ernie4_5", "exaone", "exaone4", "falcon", "gemma", "gemma2",
    "gemma3", "gpt2", "gptneox", "granite", "internlm2", "llama", "minicpm", "nomic-bert", "olmo", "olmo2", "phi2",
    "phi3", "qwen2", "qwen2vl", "qwen3", "seed_oss", "smollm3", "stablelm", "starcoder2",
}  # fmt: skip
# Their graphs assert that keys, values and what is rotated by the position have one length.
EQUAL_HEADS = {
    "apertus", "arcee", "arctic", "baichuan", "chameleon", "codeshell", "cogvlm", "cohere2moe", "dbrx", "deci",
    "deepseek", "dots1", "ernie4_5", "ernie4_5-moe", "exaone", "exaone-moe", "exaone4", "falcon", "granite",
    "granite_swa", "grok", "grovemoe", "hunyuan-moe", "hunyuan_vl", "hy_v3", "internlm2", "jais2", "llama", "llama4",
    "maincoder", "mellum", "mistral3", "olmo", "olmo2", "olmoe", "orion", "paddleocr", "pangu-embedded", "plamo",
    "qwen2", "qwen2moe", "qwen2vl", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe", "seed_oss", "smallthinker",
    "smollm3", "starcoder2", "talkie", "xverse",
}  # fmt: skip


def check_heads(file: GgufFile, architecture: str, sizes: Dimensions) -> None:
    """Whether attention can be computed with the lengths that the metadata states.

    Raises:
        GgufError: llama.cpp would abort or hang in the first step.
    """
    k, v, rotated = sizes.head_k_length, sizes.head_v_length, sizes.rope_length
    equal = architecture in EQUAL_HEADS
    # With none rotated, ggml's loop over them never ends (seen with phi3 and gemma3).
    if rotated % 2 or not 0 < rotated <= k or (equal and not k == v == rotated) or (architecture in DENSE and k != v):
        rule = "one even number for all" if equal else "an even number of rotated ones, not more than of the key"
        raise file.wrong(f"its heads have {k} key, {v} value and {rotated} rotated elements; {architecture} has {rule}")


def check_layers_alike(file: GgufFile, num_layers: int) -> None:
    """Of a dense architecture: whether each layer has what the first has, and that has attention.

    Raises:
        GgufError: a tensor is missing, is too many or has another shape.
    """
    layers: list[dict[str, tuple[int, ...]]] = [{} for _ in range(num_layers)]
    for name, tensor in file.tensors.items():
        block, _, rest = name.partition(".")
        number, _, part = rest.partition(".")
        if block != "blk":
            continue
        if not number.isascii() or not number.isdecimal() or int(number) >= num_layers:
            raise file.wrong(f"{name} belongs to none of its {num_layers} layers")
        layers[int(number)][part] = tensor.shape
    first = layers[0]
    if "attn_qkv.weight" not in first and not first.keys() >= {f"attn_{part}.weight" for part in "qkv"}:
        raise file.wrong("its first layer lacks attn_qkv.weight, or attn_q.weight, attn_k.weight and attn_v.weight")
    for index, layer in enumerate(layers):
        for part in (first | layer) if layer != first else ():
            if layer.get(part) != first.get(part):
                raise file.wrong(f"blk.{index}.{part} has the shape {layer.get(part)}, blk.0.{part} {first.get(part)}")
