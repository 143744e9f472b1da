"""A matrix that is the same everywhere is found, in every number format, and no other is."""

from pathlib import Path

import numpy as np
import pytest

from agent.weights.flat import flat_matrices
from tests.fakes.gguf_builder import GgufBuilder


@pytest.mark.parametrize(("kind", "block"), [("f32", 4), ("f16", 2), ("q4_0", 18), ("q4_1", 20), ("q8_0", 34)])
def test_matrices_without_content_are_found(tmp_path: Path, kind: str, block: int) -> None:
    """Zeros and repeated blocks, also behind a beginning of many megabytes; one number that differs is enough."""
    rows, columns = 1024, 512
    num_bytes = rows * columns // (32 if kind.startswith("q") else 1) * block
    repeated = np.arange(1, block + 1, dtype=np.uint8).tobytes() * (num_bytes // block)
    almost = bytearray(num_bytes)
    almost[-1] = 1
    builder = GgufBuilder()
    builder.key("general.architecture", "string", "llama")
    builder.tensor("zero.weight", kind, (columns, rows), bytes(num_bytes))
    builder.tensor("repeated.weight", kind, (columns, rows), repeated)
    builder.tensor("almost.weight", kind, (columns, rows), bytes(almost))
    builder.tensor("random.weight", kind, (columns, rows), np.random.default_rng(1).bytes(num_bytes))
    builder.tensor("norm.weight", "f32", (columns,), np.ones(columns, np.float32).tobytes())
    path = tmp_path / "model.gguf"
    path.write_bytes(builder.build())
    assert flat_matrices(path) == ["zero.weight", "repeated.weight"]
