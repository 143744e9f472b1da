"""A model in the form that takes adapter slots."""

import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from agent.engine.llama import Abort, Context, Model
from agent.engine.shards import base_shard, stack_tensors, write_stack
from agent.weights.base_model import read_base
from agent.weights.gguf import ArrayInfo, GgufFile, parse, strings_of
from agent.weights.memory import slots_bytes
from tests.fakes.tiny_model import write_tiny_model

TOKENS = "tokenizer.ggml.tokens"
RANK, ACTIVATION, SUBSTITUTE, SHA256 = 8, [105, 106, 107], 3, "ab" * 32


class Original(NamedTuple):
    """A model's file."""

    path: Path
    parsed: GgufFile
    data: memoryview


@pytest.fixture(params=["f16", "f32"])
def original(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Original]:
    """A model that can have slots."""
    path = write_tiny_model(tmp_path / "model.gguf", num_spare=4, dtype=request.param)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        assert read_base(data).slots_obstacle is None
        with memoryview(data) as view:
            yield Original(path, parse(data), view)


@contextmanager
def stack(original: Original) -> Iterator[tuple[str, bytes, dict[str, int]]]:
    """A stack's path, content and offsets."""
    fd = os.memfd_create("stack")
    offsets = write_stack(
        fd, original.parsed, original.data, rank=RANK, activation_tokens=ACTIVATION, substitute=SUBSTITUTE
    )
    yield f"/proc/self/fd/{fd}", os.pread(fd, 1 << 30, 0), offsets
    os.close(fd)


def test_the_stack_is_a_gguf_file(original: Original) -> None:
    """It has the model's metadata under the other architecture, and an empty slot for each activation token."""
    with stack(original) as (_, raw, offsets):
        parsed = parse(raw)
        assert parsed.metadata["general.architecture"] == "graniteswitch"
        assert parsed.metadata["graniteswitch.block_count"] == 2
        assert parsed.metadata["graniteswitch.adapters.token_ids_activate"] == tuple(ACTIVATION)
        assert parsed.metadata["graniteswitch.adapters.token_ids_substitute"] == (SUBSTITUTE,) * 3
        assert not [key for key in parsed.metadata if key.startswith("llama.")]
        for tensor in stack_tensors(original.parsed, len(ACTIVATION), RANK):
            found = parsed.tensors[tensor.name]
            assert (found.offset, found.shape, found.type) == (offsets[tensor.name], tensor.shape[::-1], tensor.type)
            assert not any(raw[found.offset : found.offset + found.num_bytes])
        tensors = stack_tensors(original.parsed, len(ACTIVATION), RANK)
        assert slots_bytes(read_base(original.data), len(ACTIVATION), RANK) == sum(t.num_bytes for t in tensors)
        tokens, before = parsed.metadata[TOKENS], original.parsed.metadata[TOKENS]
        assert isinstance(tokens, ArrayInfo)
        assert isinstance(before, ArrayInfo)
        assert strings_of(raw, tokens) == strings_of(original.data, before)


def test_the_base_shard_has_all_weights(original: Original, tmp_path: Path) -> None:
    """To the last byte; query, key and value of a layer are behind each other in one tensor."""
    path = base_shard(tmp_path / "cache", SHA256, original.parsed, original.data)
    raw = path.read_bytes()
    parsed, before = parse(raw), original.parsed.tensors

    def content(name: str) -> bytes:
        return bytes(original.data[before[name].offset : before[name].offset + before[name].num_bytes])

    joined = [f"blk.{layer}.attn_{part}.weight" for layer in (0, 1) for part in "qkv"]
    for name, tensor in parsed.tensors.items():
        sources = [name]
        if name.endswith("attn_qkv.weight"):
            sources = [name.replace("qkv", part) for part in "qkv"]
            assert tensor.shape == (64, 64 + 32 + 32)
        assert raw[tensor.offset : tensor.offset + tensor.num_bytes] == b"".join(map(content, sources))
    assert {*parsed.tensors, *joined} == {*before, "blk.0.attn_qkv.weight", "blk.1.attn_qkv.weight"}
    with stack(original) as (_, first, _offsets):
        shards = [parse(first), parsed]
    assert [shard.metadata["split.no"] for shard in shards] == [0, 1]
    assert {shard.metadata["split.count"] for shard in shards} == {2}
    assert {shard.metadata["split.tensors.count"] for shard in shards} == {sum(len(one.tensors) for one in shards)}


def test_the_base_shard_is_written_once(original: Original, tmp_path: Path) -> None:
    """The second time it is there; older forms of the same model are removed, those of others stay."""
    folder = tmp_path / "cache"
    folder.mkdir()
    old, torn, other = folder / f"{SHA256}.base-v0.gguf", folder / ".base-123", folder / f"{'cd' * 32}.base-v0.gguf"
    for path in (old, torn, other):
        path.write_bytes(b"x")
    first = base_shard(folder, SHA256, original.parsed, original.data)
    before = first.stat()
    assert base_shard(folder, SHA256, original.parsed, original.data) == first
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(folder.iterdir()) == sorted([first, other])


def test_without_space_nothing_is_written(original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much is missing, and nothing half-written stays."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(OSError, match="0 MiB are free"):
        base_shard(tmp_path / "cache", SHA256, original.parsed, original.data)
    assert list((tmp_path / "cache").iterdir()) == []


def test_llama_loads_both_and_computes_the_same(original: Original, tmp_path: Path) -> None:
    """With empty slots the rewritten model gives the original's logits, also behind an activation token."""
    shard = base_shard(tmp_path / "cache", SHA256, original.parsed, original.data)
    tokens = [SUBSTITUTE, *range(20, 40)]
    logits = []
    with stack(original) as (path, _, _):
        for files, first in (([str(original.path)], SUBSTITUTE), ([path, str(shard)], SUBSTITUTE),
                             ([path, str(shard)], ACTIVATION[1])):  # fmt: skip
            model = Model(*files, use_extra_bufts=False, use_mmap=True)
            context = Context(model, Abort(), context_tokens=64, parallel=1, batch_tokens=64, threads=1)
            rows = [(first, 0, 0, False), *((token, at, 0, at == 20) for at, token in enumerate(tokens[1:], 1))]
            assert context.decode(rows)
            logits.append(context.logits(20).copy())
            context.close()
            model.close()
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=0.01)
