"""LoRA adapters: what their file says, whether they fit a base model, and whether their numbers can be computed with.

llama.cpp's own checks end where it applies an adapter: `alpha` of another type, a tensor of three dimensions, of
integers or with another rank kills the process later; norm tensors are dropped in silence; NaN answers with nothing.
What holds for an `Adapter` that `check_adapter` and `check_finite` have let pass:

- It names the base's architecture, and changes linear tensors of the base only, each by one pair of fitting shapes.
- Every weight is finite, also as f16 and with alpha / rank multiplied into B, as adapter slots hold it.

Not supported: aLoRA (`adapter.alora.invocation_tokens`), which begins at tokens of its own and would compute them with
the adapter switched on too late or for everything; adapters of the token embedding, which llama.cpp wants transposed;
quantised adapters, which fit no slot; magnitude vectors (DoRA) and control vectors.
"""

import math
import re
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from agent.weights.base_model import Base
from agent.weights.gguf import Data, GgufError, GgufFile, Tensor, parse

if TYPE_CHECKING:
    import numpy.typing as npt

ACTIVATION_KEY = "shoal.adapter.activation"
BASE_KEY = "shoal.adapter.base_sha256"
SCORES_KEY = "shoal.adapter.scores"  # JSON: {base's SHA-256: score from 0 to 1}
MAX_RANK = 256
SLOT_RANK = 8  # of adapters that fit slots; others take turns
TYPES = ("f16", "f32", "bf16")
F16_MAX = 65504.0
_SHA256 = re.compile("[0-9a-f]{64}")

Activation = Literal["prompt", "user"]


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter. `pairs`: base tensor name → A of shape (n_in, rank), B of shape (rank, n_out).

    `rank` is the largest of its pairs; each pair is scaled by `alpha` / its own rank. `num_bytes` is the whole file.
    `activation`: from which token on it computes, the prompt's first ("prompt") or the last user turn ("user").
    `base_sha256` is the digest of the model file that it was made for, where the adapter's file says so;
    `scores` say how it did in its test, from 0 to 1, by the digests of the bases it was tested on.
    """

    label: str
    architecture: str
    rank: int
    alpha: float
    activation: Activation
    num_bytes: int
    pairs: dict[str, tuple[Tensor, Tensor]]
    base_sha256: str | None = None
    scores: dict[str, float] = {}

    def wrong(self, why: str) -> GgufError:
        """The error that says `why` this adapter cannot be used."""
        return GgufError(f"cannot use {self.label}: {why}")


def read_adapter(data: Data, *, label: str = "the adapter", file_bytes: int | None = None) -> Adapter:
    """Reads an adapter file, or its beginning when `file_bytes` says how long the file is.

    Raises:
        GgufError: it is no LoRA that can be applied to any base; the message begins "cannot use {label}: ".
    """
    file = parse(data, label=label, file_bytes=file_bytes)
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if file.metadata.get(key) != wanted:
            raise file.wrong(f"{key} is {file.metadata.get(key)!r}, not {wanted!r}")
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise file.wrong("general.architecture is missing or no string")
    if "adapter.alora.invocation_tokens" in file.metadata:
        raise file.wrong(f"it is an aLoRA, begun by tokens of its own; {ACTIVATION_KEY} = 'user' is what is supported")
    activation = file.metadata.get(ACTIVATION_KEY, "prompt")
    if activation not in ("prompt", "user"):
        raise file.wrong(f"{ACTIVATION_KEY} is {activation!r}, neither 'prompt' nor 'user'")
    base_sha256 = file.metadata.get(BASE_KEY)
    if base_sha256 is not None and not (isinstance(base_sha256, str) and _SHA256.fullmatch(base_sha256)):
        raise file.wrong(f"{BASE_KEY} is {base_sha256!r}, not a SHA-256 of 64 hexadecimal digits")
    scores = _scores_of(file)
    pairs = _pairs_of(file)
    return Adapter(
        label=label,
        architecture=architecture,
        rank=max(b.shape[0] for _, b in pairs.values()),
        alpha=_alpha_of(file),
        activation=cast(Activation, activation),
        num_bytes=file.num_bytes,
        pairs=pairs,
        base_sha256=base_sha256,
        scores=scores,
    )


def check_adapter(adapter: Adapter, base: Base) -> None:
    """Whether the adapter fits the base. That it was trained on this very base, no file can tell.

    Raises:
        GgufError: it is for another architecture, or changes tensors that the base has not, or not in this shape.
    """
    if adapter.architecture != base.architecture:
        raise adapter.wrong(f"it is for the architecture {adapter.architecture}, the base is {base.architecture}")
    for name, (a, b) in adapter.pairs.items():
        shape = base.linear.get(name)
        if shape is None:
            raise adapter.wrong(f"{name} is no linear tensor of the base")
        if (a.shape[0], b.shape[1]) != shape:
            raise adapter.wrong(
                f"it changes {name} as one of {a.shape[0]} by {b.shape[1]}, the base has {shape[0]} by {shape[1]}"
            )


def check_finite(data: Data, adapter: Adapter) -> None:
    """Looks at every weight. `data` is the whole file. Takes about a millisecond for 5 MB.

    Raises:
        GgufError: a weight is NaN, infinite, or too large for f16; the message names the tensor.
    """
    largest_scale = max(1.0, *(adapter.alpha / b.shape[0] for _, b in adapter.pairs.values()))
    tensors = sorted((tensor for pair in adapter.pairs.values() for tensor in pair), key=lambda tensor: tensor.offset)
    first, last = tensors[0], tensors[-1]
    if all(tensor.type == first.type for tensor in tensors):
        # 400 tensors one by one cost several times as much as one look at all. Padding is seen too: where it holds
        # something, the tensors are looked at one by one.
        num_bytes = last.offset + last.num_bytes - first.offset
        if _largest(data, first.type, first.offset, num_bytes) * largest_scale <= F16_MAX:
            return
    for a, b in adapter.pairs.values():
        for tensor, scale in ((a, 1.0), (b, adapter.alpha / b.shape[0])):
            largest = _largest(data, tensor.type, tensor.offset, tensor.num_bytes)
            if not math.isfinite(largest):
                raise adapter.wrong(f"{tensor.name} has weights that are infinite or not a number")
            if largest * max(1.0, scale) > F16_MAX:
                raise adapter.wrong(
                    f"{tensor.name} has weights up to {largest:g}, scaled by {scale:g}: too large for f16"
                )


def _largest(data: Data, kind: str, offset: int, num_bytes: int) -> float:
    """The largest magnitude among numbers; infinite when one is infinite or not a number.

    Without their sign, floating-point numbers have the order of their bits read as integers.
    """
    import numpy as np  # the daemon has none

    size, mask = (4, 0x7FFF_FFFF) if kind == "f32" else (2, 0x7FFF)
    top = _most(np.frombuffer(data, f"<u{size}", num_bytes // size, offset), mask)
    if kind == "bf16":
        top <<= 16  # the upper half of an f32
    number, *_ = np.array([top], "<u2" if kind == "f16" else "<u4").view("<f2" if kind == "f16" else "<f4")
    return float(number) if np.isfinite(number) else math.inf


def _most(bits: "npt.NDArray[Any]", mask: int) -> int:
    """The largest number under a mask, in portions that stay in the processor's cache."""
    import numpy as np

    portion = 1 << 16
    mask_of_type = bits.dtype.type(mask)
    return max(int(np.bitwise_and(bits[at : at + portion], mask_of_type).max()) for at in range(0, len(bits), portion))


def _scores_of(file: GgufFile) -> dict[str, float]:
    text = file.metadata.get(SCORES_KEY, "{}")
    try:
        scores = msgspec.json.decode(text if isinstance(text, str) else b"", type=dict[str, float])
    except msgspec.MsgspecError as error:
        raise file.wrong(f"{SCORES_KEY} is no JSON object of numbers: {error}") from None
    for base, score in scores.items():
        if not _SHA256.fullmatch(base) or not 0 <= score <= 1:
            raise file.wrong(f"{SCORES_KEY} has {base!r}: {score}, not a SHA-256 and a number from 0 to 1")
    return scores


def _alpha_of(file: GgufFile) -> float:
    alpha = file.metadata.get("adapter.lora.alpha")
    if not isinstance(alpha, float) or file.types["adapter.lora.alpha"] != "f32":
        raise file.wrong(f"adapter.lora.alpha is {file.types.get('adapter.lora.alpha', 'missing')}, not f32")
    if not 0 < alpha < math.inf:  # llama.cpp takes 0 for "scale by 1"
        raise file.wrong(f"adapter.lora.alpha is {alpha}; it must be above 0 and finite")
    return alpha


def _pairs_of(file: GgufFile) -> dict[str, tuple[Tensor, Tensor]]:
    """The tensors by the base tensor that they change."""
    halves: dict[str, dict[str, Tensor]] = {}
    for tensor in file.tensors.values():
        base_name, _, half = tensor.name.rpartition(".")
        if half not in ("lora_a", "lora_b"):
            raise file.wrong(f"the tensor {tensor.name} is neither .lora_a nor .lora_b of a base tensor")
        if len(tensor.shape) != 2 or tensor.type not in TYPES:
            raise file.wrong(
                f"{tensor.name} has {len(tensor.shape)} dimensions of type {tensor.type}; 2 of"
                f" {', '.join(TYPES)} can be applied"
            )
        halves.setdefault(base_name, {})[half] = tensor
    if not halves:
        raise file.wrong("it has no tensors")
    pairs = {}
    for name, pair in halves.items():
        if len(pair) < 2:
            raise file.wrong(f"{name} has {next(iter(pair))} only")
        a, b = pair["lora_a"], pair["lora_b"]
        if a.shape[1] != b.shape[0] or not 1 <= b.shape[0] <= MAX_RANK:
            raise file.wrong(
                f"{name} has the ranks {a.shape[1]} and {b.shape[0]}; equal ones up to {MAX_RANK} are allowed"
            )
        pairs[name] = (a, b)
    return pairs
