"""What a release takes in a node's memory, when its publisher does not say: an estimate from the file's metadata.

A node that shall run it counts with its own settings; this is for people, and for who has not fetched the file yet.
"""

from fleet.releases.layout import Layout

ASSUMED_CONTEXT_TOKENS = 4096  # at most, where the release says nothing
# Measured for the agent's own figure, which is within 5 % of the process's memory: interpreter and libraries; texts,
# maps and merges of a vocabulary.
PROCESS_BYTES = 56 << 20
VOCABULARY_BYTES_PER_TOKEN = 320
_F16_BYTES = 2


def memory_bytes(layout: Layout, context_tokens: int | None) -> int:
    """The file, keys and values of a whole context, and what is needed around them."""
    architecture = layout.values.get("general.architecture")
    if layout.values.get("general.type") == "adapter":
        return layout.num_bytes
    trained = _number(layout, f"{architecture}.context_length", ASSUMED_CONTEXT_TOKENS)
    tokens = context_tokens or min(trained, ASSUMED_CONTEXT_TOKENS)
    vocabulary = layout.lengths.get("tokenizer.ggml.tokens", 0) * VOCABULARY_BYTES_PER_TOKEN
    return layout.num_bytes + PROCESS_BYTES + vocabulary + tokens * _kv_bytes_per_token(layout, f"{architecture}.")


def _kv_bytes_per_token(layout: Layout, prefix: str) -> int:
    layers = _number(layout, f"{prefix}block_count", 0)
    num_heads = _number(layout, f"{prefix}attention.head_count", 0)
    head = _number(layout, f"{prefix}embedding_length", 0) // num_heads if num_heads else 0
    kv_heads = layout.values.get(f"{prefix}attention.head_count_kv", num_heads)
    total = sum(kv_heads) if isinstance(kv_heads, tuple) else layers * int(kv_heads)
    lengths = (_number(layout, f"{prefix}attention.{part}_length", head) for part in ("key", "value"))
    return int(total) * sum(lengths) * _F16_BYTES


def _number(layout: Layout, key: str, default: int) -> int:
    value = layout.values.get(key, default)
    return value if isinstance(value, int) else default
