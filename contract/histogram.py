"""Histograms that can be merged: quantiles of a whole fleet from what each node counted. Pure.

Buckets grow by a constant factor, so every quantile above `MIN_VALUE` is within `RELATIVE_ERROR` of the exact one, also
after any number of merges in any order: counts of the same buckets are added, and nothing is rounded again
(DDSketch, Masson, Rim and Lee 2019, without collapsing: the range is fixed and so is the number of buckets).

On the wire a histogram is text: Base85 of a version and deflated variable-length integers, which take a byte for a
bucket while its count is below 128. A busy half hour takes 100 to 200 characters.
"""

import base64
import math
import zlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

RELATIVE_ERROR = 0.009  # a hundredth is promised; the rest is room for the rounding of logarithms
MIN_VALUE = 0.001  # what is less counts as nothing; of milliseconds this is a microsecond
MAX_VALUE = 1e9  # what is more counts as this; of milliseconds these are eleven days
MAX_TEXT_CHARS = 8192  # enough for all 1,536 buckets with counts up to 2^24

_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH = math.log(_GROWTH)
_VERSION = 1
_MAX_COUNT = 2**53 - 1
_MAX_BYTES = 16_384  # more than all 1,536 buckets with the largest counts
_RAW = -zlib.MAX_WBITS  # deflate without a header and a checksum


class BadHistogram(ValueError):
    """A text that stands for no histogram."""


class Histogram(Struct):
    """How often values occurred. `counts` is by bucket; bucket i holds what is above growth^(i-1), up to growth^i."""

    zeros: int = 0
    counts: dict[int, int] = {}

    @property
    def num_values(self) -> int:
        """How many values were counted."""
        return self.zeros + sum(self.counts.values())

    def add(self, value: float) -> None:
        """Counts a value.

        Raises:
            ValueError: it is negative or not a number.
        """
        if not value >= 0:
            raise ValueError(f"cannot count {value!r}: values are 0 or more")
        if value < MIN_VALUE:
            self.zeros += 1
        else:
            bucket = _bucket(value)
            self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def quantile(self, part: float) -> float | None:
        """The value below which `part` (0 to 1) of all values lie: of the sorted ones number ⌊part·(n-1)⌋, from 0.

        None when nothing was counted.
        """
        if not 0 <= part <= 1:
            raise ValueError(f"cannot tell the quantile {part!r}: it is between 0 and 1")
        if not self.num_values:
            return None
        rest = math.floor(part * (self.num_values - 1)) - self.zeros
        value = 0.0
        for bucket in sorted(self.counts):
            if rest < 0:
                break
            rest -= self.counts[bucket]
            value = 2 * _GROWTH**bucket / (_GROWTH + 1)  # equally far, in proportion, from both ends of the bucket
        return value


def merge(histograms: Iterable[Histogram]) -> Histogram:
    """All of them as one. The order does not matter."""
    zeros, counts = 0, dict[int, int]()
    for one in histograms:
        zeros += one.zeros
        for bucket, count in one.counts.items():
            counts[bucket] = counts.get(bucket, 0) + count
    return Histogram(zeros, counts)


def encode(histogram: Histogram) -> str:
    """As text that needs no escapes in JSON."""
    data = bytearray()
    _put(data, histogram.zeros)
    expected = _FIRST
    for bucket in sorted(histogram.counts):
        if bucket > expected:  # a count is never 0, so 0 says how many buckets are left out
            _put(data, 0)
            _put(data, bucket - expected)
        _put(data, histogram.counts[bucket])
        expected = bucket + 1
    packer = zlib.compressobj(9, wbits=_RAW)
    return base64.b85encode(bytes([_VERSION]) + packer.compress(data) + packer.flush()).decode()


def decode(text: str) -> Histogram:
    """The histogram that a text stands for.

    Raises:
        BadHistogram: it stands for none.
    """
    if len(text) > MAX_TEXT_CHARS:
        raise BadHistogram(f"cannot read a histogram of {len(text)} characters: at most {MAX_TEXT_CHARS} are read")
    try:
        data = base64.b85decode(text)
        unpacker = zlib.decompressobj(_RAW)
        version, data = data[:1], unpacker.decompress(data[1:], _MAX_BYTES)
    except (ValueError, zlib.error) as error:
        raise BadHistogram(f"cannot read a histogram: {error}") from None
    if version != bytes([_VERSION]):
        raise BadHistogram(f"cannot read a histogram whose version is not {_VERSION}")
    if not unpacker.eof or unpacker.unused_data:
        raise BadHistogram("cannot read a histogram that is cut off or goes on too long")
    numbers = _numbers(data)
    found = Histogram(next(numbers, 0), {})
    bucket = _FIRST
    for number in numbers:
        if number == 0:
            bucket += next(numbers, 0)
            continue
        if bucket > _LAST:
            raise BadHistogram(f"cannot read a histogram with a value above {MAX_VALUE:g}")
        found.counts[bucket] = number
        bucket += 1
    return found


def _bucket(value: float) -> int:
    return math.ceil(math.log(min(value, MAX_VALUE)) / _LOG_GROWTH)


_FIRST, _LAST = _bucket(MIN_VALUE), _bucket(MAX_VALUE)


def _put(data: bytearray, number: int) -> None:
    while number > 127:
        data.append(number & 127 | 128)
        number >>= 7
    data.append(number)


def _numbers(data: bytes) -> Iterator[int]:
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if number > _MAX_COUNT:
            raise BadHistogram(f"cannot read a histogram with a count above {_MAX_COUNT}")
        if byte < 128:
            yield number
            number = shift = 0
    if shift:
        raise BadHistogram("cannot read a histogram that is cut off")
