"""A GGUF file taken apart into its tensors' data and everything else, and put together again, byte for byte."""

from collections.abc import Iterable, Iterator

import msgspec

from agent.weights.gguf import Data, GgufFile


class Parts(msgspec.Struct, frozen=True):
    """`header` is all that is no tensor's data, in the file's order: head, padding, what follows the last tensor.

    `tensors` are offset in the file and data, in the file's order.
    """

    header: bytes
    tensors: list[tuple[int, memoryview]]


def split(data: Data, file: GgufFile) -> Parts:
    """The parts of a file that `parse` has found sound; the tensors are views of `data`."""
    view = memoryview(data)
    tensors = [
        (tensor.offset, view[tensor.offset : tensor.offset + tensor.num_bytes])
        for tensor in sorted(file.tensors.values(), key=lambda tensor: tensor.offset)
    ]
    header, at = bytearray(), 0
    for offset, content in tensors:
        header += view[at:offset]
        at = offset + len(content)
    header += view[at:]
    return Parts(bytes(header), tensors)


def joined(header: bytes, tensors: Iterable[tuple[int, bytes | memoryview]]) -> Iterator[bytes | memoryview]:
    """The file that was split, in pieces; none of them is empty."""
    view, at, taken = memoryview(header), 0, 0
    for offset, content in tensors:
        if offset > at:
            yield view[taken : taken + offset - at]
            taken += offset - at
        yield content
        at = offset + len(content)
    if taken < len(view):
        yield view[taken:]
