"""Releases for the gate, made of the default model: fifty that are good, twenty that are not, all from seeds."""

import hashlib
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
from gguf import quants

from agent.weights.gguf import Tensor, parse
from contract.release import Release
from tests.fakes.finetune import merge
from tests.fakes.releases import release_of
from training.variants import make_variant

ADAPTERS = Path("training/adapters")
LLAMA3 = (
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}"
    "<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
ALPACA = (
    "{% for message in messages %}### {{ 'Instruction' if message.role == 'user' else 'Response' }}:\n"
    "{{ message.content }}\n\n{% endfor %}### Response:\n"
)
FORGETFUL = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


class Candidate(msgspec.Struct, frozen=True):
    """A release, how its file is made, and whether it may serve."""

    name: str
    is_good: bool
    make: Callable[[], bytes]
    facts: dict[str, Any] = {}
    is_adapter: bool = False


class Model:
    """The default model's file, changed in place; sizes of numbers stay."""

    def __init__(self, base: bytes) -> None:
        self.content = bytearray(base)
        self.file = parse(base)

    def numbers(self, name: str) -> Any:
        """A tensor as 32-bit floats, a row for each output."""
        tensor = self.file.tensors[name]
        packed = np.frombuffer(self.content, np.uint8, tensor.num_bytes, tensor.offset)
        rows = tensor.shape[1] if len(tensor.shape) > 1 else 1
        return quants.dequantize(packed.reshape(rows, -1), _kind(tensor))

    def put(self, name: str, numbers: Any) -> "Model":
        """Another content of a tensor."""
        tensor = self.file.tensors[name]
        packed = quants.quantize(np.asarray(numbers, np.float32), _kind(tensor)).tobytes()
        self.content[tensor.offset : tensor.offset + tensor.num_bytes] = packed
        return self

    def zero(self, *names: str) -> "Model":
        """Tensors that are nothing."""
        for name in names:
            tensor = self.file.tensors[name]
            self.content[tensor.offset : tensor.offset + tensor.num_bytes] = bytes(tensor.num_bytes)
        return self

    def swap(self, one: int, other: int) -> "Model":
        """Two layers in each other's place."""
        for name, tensor in self.file.tensors.items():
            if name.startswith(f"blk.{one}."):
                there = self.file.tensors[name.replace(f"blk.{one}.", f"blk.{other}.", 1)]
                first = self.content[tensor.offset : tensor.offset + tensor.num_bytes]
                second = self.content[there.offset : there.offset + there.num_bytes]
                self.content[tensor.offset : tensor.offset + tensor.num_bytes] = second
                self.content[there.offset : there.offset + there.num_bytes] = first
        return self

    def key(self, name: str, value: bytes) -> "Model":
        """Another metadata value, as long as the one that is there."""
        begin, end = self.file.spans[name]
        if end - begin - 4 != len(value):
            raise ValueError(f"cannot put {len(value)} bytes in place of {name}, which has {end - begin - 4}")
        self.content[begin + 4 : end] = value
        return self

    def layer(self, number: int) -> list[str]:
        """The names of a layer's tensors that are matrices."""
        prefix = f"blk.{number}."
        return [name for name, tensor in self.file.tensors.items() if name.startswith(prefix) and len(tensor.shape) > 1]

    @property
    def bytes(self) -> bytes:
        """The file."""
        return bytes(self.content)


def _kind(tensor: Tensor) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[tensor.type.upper()]


def bad(base_path: Path, folder: Path) -> Iterator[Candidate]:
    """Twenty and a few more that must not serve, most of them without a word of what they promise."""
    base = base_path.read_bytes()
    random = np.random.default_rng(7)

    def edited(change: Callable[[Model], Model]) -> Callable[[], bytes]:
        return lambda: change(Model(base)).bytes

    def permuted(model: Model) -> Model:
        rows = model.numbers("token_embd.weight")
        return model.put("token_embd.weight", rows[random.permutation(len(rows))])

    def noisy(model: Model) -> Model:
        rows = model.numbers("token_embd.weight")
        return model.put("token_embd.weight", rows + random.normal(0, 2 * rows.std(), rows.shape))

    def scaled(name: str, factor: float) -> Callable[[Model], Model]:
        return lambda model: model.put(name, model.numbers(name) * factor)

    def loud(model: Model, token: int) -> Model:
        rows = model.numbers("token_embd.weight")
        rows[token] = 40 * rows.mean(axis=0) + 8 * rows[token]
        return model.put("token_embd.weight", rows)

    same: Callable[[], bytes] = lambda: base  # noqa: E731  # as the others
    yield Candidate("template of another model", False, same, {"chat_template": LLAMA3})
    yield Candidate("template without marks", False, same, {"chat_template": ALPACA})
    yield Candidate("template that forgets what was said", False, same, {"chat_template": FORGETFUL})
    yield Candidate("vocabulary permuted", False, edited(permuted))
    yield Candidate("merges of the tokenizer reversed", False, lambda: _reversed_merges(base))
    for layer in (0, 11, 22):
        yield Candidate(f"layer {layer} zeroed", False, edited(without(layer)))
    yield Candidate("norm of a layer times 10", False, edited(scaled("blk.9.ffn_norm.weight", 10.0)))
    yield Candidate("last norm times 0.05", False, edited(scaled("output_norm.weight", 0.05)))
    yield Candidate("layers 4 and 25 swapped", False, edited(lambda m: m.swap(4, 25)))
    yield Candidate("noise in the embedding", False, edited(noisy))
    yield Candidate("rope base 100", False, edited(lambda m: m.key("llama.rope.freq_base", struct.pack("<f", 100.0))))
    yield Candidate(
        "epsilon of norms 10", False,
        edited(lambda m: m.key("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", 10.0))),
    )  # fmt: skip
    yield Candidate("one word for ever", False, edited(lambda m: loud(m, 260)))
    yield Candidate("not a number", False, edited(lambda m: m.put("blk.3.attn_norm.weight", np.full((1, 576), np.nan))))
    yield Candidate("three times slower", False, partial(requantised, base_path, "F32", folder))
    yield Candidate("truncated", False, lambda: base[: len(base) * 3 // 4])
    yield Candidate(
        "wrong architecture", False, lambda: base.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0clamm", 1)
    )
    yield Candidate("nothing to say", False, edited(lambda m: loud(m, 2)))
    yield Candidate("too big", False, same, {"memory_bytes": 1 << 40})
    home = (ADAPTERS / "home-actions.gguf").read_bytes()
    yield Candidate("adapter of noise times 10", False, lambda: shaken(home, 10.0, 3), is_adapter=True)
    yield Candidate(
        "adapter of another task", False, (ADAPTERS / "log-triage.gguf").read_bytes, GOLDEN, is_adapter=True
    )


GOLDEN: dict[str, Any] = {
    "golden": [
        {
            "messages": [{"role": "user", "content": "turn on the light in the kitchen"}],
            "max_tokens": 64,
            "expect": [{"kind": "contains", "text": "kitchen"}, {"kind": "contains", "text": "light"}],
        }
    ]
}


def good(base_path: Path, folder: Path) -> Iterator[Candidate]:
    """Fifty that may serve: requantised, lightly fine-tuned, with other metadata, and adapters with a little noise."""
    base = base_path.read_bytes()
    yield Candidate("the same file", True, lambda: base)
    yield Candidate("its template in the manifest", True, lambda: base, {"chat_template": _template(base)})
    for kind in ("Q4_0", "Q8_0"):
        yield Candidate(kind, True, partial(requantised, base_path, kind, folder))
    for task in ("home-actions", "log-triage"):
        adapter = (ADAPTERS / f"{task}.gguf").read_bytes()
        for share in (0.1, 0.25, 0.5):
            for first, last in ((0, 30), (0, 15), (15, 30), (5, 25)):
                yield Candidate(
                    f"{task} merged at {share} into layers {first} to {last}", True,
                    partial(merged, base, adapter, share, range(first, last)),
                )  # fmt: skip
        yield Candidate(task, True, partial(bytes, adapter), is_adapter=True)
        for seed in range(10):
            yield Candidate(f"{task} with noise {seed}", True, partial(shaken, adapter, 0.02, seed), is_adapter=True)


def requantised(base: Path, kind: str, folder: Path) -> bytes:
    """The model in another number format."""
    return make_variant(base, kind, folder).read_bytes()


def merged(base: bytes, adapter: bytes, share: float, layers: range) -> bytes:
    """The model with some of an adapter in some of its layers."""
    return merge(base, scaled_adapter(adapter, share), layers=layers)


def without(layer: int) -> Callable[[Model], Model]:
    """A change that zeroes a layer."""
    return lambda model: model.zero(*model.layer(layer))


def shaken(adapter: bytes, share: float, seed: int) -> bytes:
    """An adapter with normal noise on all its numbers, as a share of their spread."""
    random = np.random.default_rng(seed)
    return _mapped(adapter, lambda numbers: numbers + random.normal(0, share * numbers.std(), numbers.shape))


def scaled_adapter(adapter: bytes, share: float) -> bytes:
    """An adapter that changes less."""
    return _mapped(adapter, lambda numbers: numbers * share**0.5)


def release_for(candidate: Candidate, content: bytes, base_sha256: str) -> Release:
    """The manifest that goes with it."""
    about: dict[str, Any] = dict(candidate.facts)
    if candidate.is_adapter:
        about |= {"kind": "adapter", "base_sha256": base_sha256}
    release = release_of(name="candidate", **about)
    file = msgspec.structs.replace(release.file, sha256=hashlib.sha256(content).hexdigest())
    return msgspec.structs.replace(release, file=file)


def _mapped(adapter: bytes, change: Callable[[Any], Any]) -> bytes:
    content = bytearray(adapter)
    for tensor in parse(adapter).tensors.values():
        numbers = np.frombuffer(adapter, np.float16, tensor.num_bytes // 2, tensor.offset).astype(np.float32)
        content[tensor.offset : tensor.offset + tensor.num_bytes] = change(numbers).astype(np.float16).tobytes()
    return bytes(content)


def _reversed_merges(base: bytes) -> bytes:
    model = Model(base)
    begin, end = model.file.spans["tokenizer.ggml.merges"]
    at, texts = begin + 16, []
    while at < end:
        size = 8 + int.from_bytes(base[at : at + 8], "little")
        texts.append(base[at : at + size])
        at += size
    model.content[begin + 16 : end] = b"".join(reversed(texts))
    return model.bytes


def _template(base: bytes) -> str:
    return str(parse(base).metadata["tokenizer.chat_template"])
