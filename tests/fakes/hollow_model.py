"""Model files for tests."""

from pathlib import Path

from tests.fakes.gguf_builder import GgufBuilder

NUM_VOCAB = 128


def hollow_model(path: Path, *, architecture: str = "gpt2", seed: int = 0) -> Path:
    """A file with the metadata of a model and hardly any weights: enough for everything but an engine."""
    builder = GgufBuilder()
    builder.key("general.architecture", "string", architecture)
    builder.key("general.name", "string", f"tiny {seed}")
    for key, number in {
        "block_count": 2, "embedding_length": 64, "feed_forward_length": 128, "attention.head_count": 4,
        "context_length": 512,
    }.items():  # fmt: skip
        builder.key(f"{architecture}.{key}", "u32", number)
    builder.key("tokenizer.ggml.model", "string", "gpt2")
    builder.key("tokenizer.ggml.merges", "[string]", ["a b"])
    builder.key("tokenizer.ggml.tokens", "[string]", [f"t{number}" for number in range(NUM_VOCAB)])
    builder.tensor("token_embd.weight", "f32", (64, NUM_VOCAB))
    for layer in range(2):
        builder.tensor(f"blk.{layer}.attn_qkv.weight", "f32", (64, 192))
    path.write_bytes(builder.build())
    return path
