"""How much memory an engine process takes for a model, before it is started.

Too little memory shows as a slow collapse, not as an error: with 130 of the 160 MiB that it needs, SmolLM2-135M answers
at a sixth of its speed. So a model that cannot fit is refused first.
"""

from agent.weights.base_model import Base

# RSS of `python -m agent.engine` after some answers, on x86-64 with Python 3.11, and what `memory_bytes` says (MiB):
#   SmolLM2-135M Q4_1, 1 by 128, 4 by 1024, 8 by 4096 tokens    169, 255, 889    172, 261, 892
#   random weights, 104 tokens known, 8 by 512                             54               58
#   random weights, 262,104 tokens known, 1 and 8 by 512             161, 177         185, 200
# With weights that are repacked (q4_0 and the load flag `use_extra_bufts`) the RSS is higher by their size, 56 MiB of
# 87 for SmolLM2: what was mapped stays resident, but is not read again, and the kernel may drop it. It counts once.
PROCESS_BYTES = 56 << 20  # interpreter, numpy, llama.cpp, 24 MiB of it mapped libraries
VOCABULARY_BYTES_PER_TOKEN = 320  # texts, two maps, merges; measured 300 to 310
_FLOAT_BYTES = 4


def slots_bytes(base: Base, num_slots: int, rank: int) -> int:
    """Bytes of adapter slots and the empty one that stands for the base: A in f16, B in f32, for each linear layer."""
    halves = (2 * inputs + 4 * outputs for name, (inputs, outputs) in base.linear.items() if name.startswith("blk."))
    return (num_slots + 1) * rank * sum(halves)


def memory_bytes(base: Base, file_bytes: int, kv_tokens: int, *, sequences: int = 1, batch_tokens: int = 128) -> int:
    """Bytes that an engine with this model takes: the whole file, key-value memory and what is needed around them.

    `kv_tokens` are those of all sequences together, `batch_tokens` the most in one step.
    """
    # A step's graph holds a few rows of the embedding's and the feed-forward's length for each of its tokens.
    graph = batch_tokens * (6 * base.embedding_length + 3 * base.ffn_length) * _FLOAT_BYTES
    logits = 2 * (sequences + 1) * base.num_vocab * _FLOAT_BYTES  # in the graph and as its result
    vocabulary = base.num_vocab * VOCABULARY_BYTES_PER_TOKEN
    return file_bytes + kv_tokens * base.kv_bytes_per_token + PROCESS_BYTES + vocabulary + graph + logits
