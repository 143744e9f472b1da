"""Damage for GGUF files: blind, in the bytes of header and table, and knowing, in single values of a sound file."""

import random
import struct
from collections.abc import Callable

from tests.fakes.gguf_builder import TYPE_NUMBERS, GgufBuilder, value

NUMBERS = {
    "u8": (0, 1, 255),
    "i8": (-1, 0, 127),
    "u16": (0, 65535),
    "i16": (-1, 32767),
    "u32": (0, 1, 2, 3, 7, 64, 513, 65536, 2**31 - 1, 2**31, 2**32 - 1),
    "i32": (-(2**31), -1, 0, 1, 2**31 - 1),
    "u64": (0, 1, 2**32, 2**63, 2**64 - 1),
    "i64": (-(2**63), -1, 2**63 - 1),
    "f32": (0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")),
    "f64": (0.0, float("nan"), 1e300),
    "bool": (0, 1, 2, 255),
}
STRINGS = (
    "",
    "llama",
    "gpt2",
    "bert",
    "t5",
    "lora",
    "adapter",
    "model",
    "qwen2",
    "none",
    "yarn",
    "x" * 3000,
    "a\0b",
    "\n",
)
SHAPES: tuple[Callable[[tuple[int, ...]], tuple[int, ...]], ...] = (
    lambda shape: shape[::-1],
    lambda shape: (*shape, 1),
    lambda shape: (*shape, 2),
    lambda shape: (shape[0] * 2, *shape[1:]),
    lambda shape: (*shape[:-1], shape[-1] + 1),
    lambda shape: (*shape[:-1], max(1, shape[-1] - 1)),
    lambda shape: (*shape[:-1], max(1, shape[-1] // 2)),
    lambda shape: shape[:1],
    lambda shape: (0, *shape[1:]),
    lambda shape: (2**62, 4, *shape[1:2]),
)


def damage_bytes(raw: bytes, dice: random.Random) -> bytes:
    """A copy that is shorter, or with some bits or numbers changed, mostly before the tensors' data."""
    out = bytearray(raw)
    head = raw.rfind(b".weight") + 64  # the end of the table
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        at = dice.randrange(4, min(head, len(out)) - 8 if dice.random() < 0.9 else len(out) - 8)
        match dice.randrange(4):
            case 0:
                out[at] ^= 1 << dice.randrange(8)
            case 1:
                out[at : at + 4] = struct.pack("<I", dice.choice(NUMBERS["u32"]))
            case 2:
                out[at : at + 8] = struct.pack("<Q", dice.choice(NUMBERS["u64"]))
            case 3:
                out[at] = dice.randrange(256)
    if dice.random() < 0.15:
        del out[dice.randrange(len(out)) :]
    return bytes(out)


def damage_values(builder: GgufBuilder, dice: random.Random) -> bytes:
    """The file with one or two values changed, and everything around them fitting."""
    for _ in range(dice.choice((1, 1, 2))):
        if dice.random() < 0.5:
            _change_key(builder, dice)
        elif builder.tensors:
            _change_tensor(builder, dice)
    match dice.randrange(30):
        case 0:
            builder.num_tensors = len(builder.tensors) + dice.choice((-1, 1))
        case 1:
            builder.num_keys = len(builder.metadata) + dice.choice((-1, 1))
        case 2:
            builder.version = dice.choice((0, 1, 2, 4, 3 << 24))
        case 3:
            builder.alignment = dice.choice((1, 8, 16, 64, 4096))
            builder.key("general.alignment", "u32", builder.alignment)
    return builder.build()


def _change_key(builder: GgufBuilder, dice: random.Random) -> None:
    name = dice.choice(list(builder.metadata))
    match dice.randrange(6):
        case 0:
            del builder.metadata[name]
        case 1:
            kind = dice.choice(list(NUMBERS))
            builder.metadata[name] = value(kind, dice.choice(NUMBERS[kind]))
        case 2:
            builder.metadata[name] = value("string", dice.choice(STRINGS))
        case 3:
            kind = dice.choice(list(NUMBERS))
            builder.metadata[name] = value(f"[{kind}]", dice.choices(NUMBERS[kind], k=dice.choice((0, 1, 2, 104, 263))))
        case 4:
            builder.metadata[name] = value("[string]", dice.choices(STRINGS, k=dice.choice((0, 1, 3))))
        case 5:  # another value of the same type: what looks most like the real thing
            same = {4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string"}.get(builder.metadata[name][0])
            if same:
                builder.key(name, same, dice.choice(STRINGS if same == "string" else NUMBERS[same]))
            else:
                _change_array(builder, name, dice)


def _change_array(builder: GgufBuilder, name: str | bytes, dice: random.Random) -> None:
    raw = bytearray(builder.metadata[name])
    at = dice.randrange(16, len(raw)) if len(raw) > 16 else 0
    raw[at] = dice.randrange(256)
    builder.metadata[name] = bytes(raw)


def _change_tensor(builder: GgufBuilder, dice: random.Random) -> None:
    name = dice.choice(list(builder.tensors))
    number, shape, data = builder.tensors[name]
    match dice.randrange(7):
        case 0:
            del builder.tensors[name]
        case 1:
            del builder.tensors[name]
            other = dice.choice(["x", str(name) + "x", str(name).replace("0", "1"), str(name).replace("q", "output")])
            builder.tensors[dice.choice((other, "rope_freqs.weight", "blk.0.attn_q.bias"))] = (number, shape, data)
        case 2 | 3:
            _resize(builder, name, dice.choice(list(TYPE_NUMBERS)), shape)
        case 4:
            _resize(builder, name, number, dice.choice(SHAPES)(shape))
        case 5:
            builder.tensors[name] = (number, shape, dice.randbytes(len(data)))
        case 6:
            builder.offsets[name] = dice.choice((0, 1, 32, 2**32, 2**63, 2**64 - 32))


def _resize(builder: GgufBuilder, name: str | bytes, kind: str | int, shape: tuple[int, ...]) -> None:
    """The tensor with another type or shape and as much data; where that cannot be, the old data."""
    data = builder.tensors[name][2]
    if max(shape) < 1 << 20:
        builder.tensor(name, kind, shape)
    else:
        number = TYPE_NUMBERS[kind] if isinstance(kind, str) else kind
        builder.tensors[name] = (number, shape, data)
