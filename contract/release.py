"""Release manifests: what a model or adapter file is made of, how its answers are judged, and what it needs. Pure.

A file is cut into segments. A segment can be had from one or more sources, each an immutable file named by the SHA-256
of its own bytes (`object_path`), so that any server, cache or neighbour may hand it out.

What holds for every `Release` that `decode_release` returns:

- The segments, in order and without gaps, are the file: their sizes add up to its size.
- Every segment has a source that needs nothing else, and no source is larger than what it makes. So no number in the
  manifest can make a node fetch, hold in memory or write more than the file's size and a few segments.
- Only an `xor+zstd` or `blocks+zstd` source has a base, which is another segment than its own.
- One digest has one size.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from contract import limits
from contract.difference import Blocks
from contract.ids import END
from contract.json_schema import check_schema
from contract.pattern import parse_pattern
from contract.requests import Id, Message, ResponseFormat, Stop

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}" + END)]
Version = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}" + END)]
Word = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,62}" + END)]
License = Annotated[str, Meta(min_length=1, max_length=128, description="An SPDX expression.")]
MemoryBytes = Annotated[
    int, Meta(ge=0, le=2**40, description="What the release takes in a node's memory, file and work together.")
]
Expected = Annotated[str, Meta(min_length=1, max_length=limits.MAX_EXPECTED_CHARS)]
SegmentBytes = Annotated[int, Meta(ge=1, le=limits.MAX_SEGMENT_BYTES)]
FileBytes = Annotated[int, Meta(ge=1, le=limits.MAX_RELEASE_FILE_BYTES)]

Encoding = Literal["full", "zstd", "xor+zstd", "blocks+zstd"]
Kind = Literal["model", "adapter"]


class BadRelease(ValueError):
    """A manifest is not what it should be: "cannot read the release manifest: …"."""


class Source(Struct, frozen=True):
    """An object that a segment can be made from. `sha256` and `bytes` are of the object as it is stored and sent.

    full: the segment itself. zstd: one frame. xor+zstd: one frame of the segment XOR the segment `base`, which is as
    long. blocks+zstd: one frame of what `contract.difference` finds between the two, which are numbers in `blocks`.
    """

    encoding: Encoding
    sha256: Sha256
    bytes: SegmentBytes
    base: Sha256 | None = None
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        if (self.encoding in ("xor+zstd", "blocks+zstd")) != (self.base is not None):
            raise ValueError(
                f"a source has the encoding {self.encoding} and the base {self.base}; xor+zstd and blocks+zstd have one"
            )
        if (self.encoding == "blocks+zstd") != (self.blocks is not None):
            raise ValueError(
                f"a source has the encoding {self.encoding} and blocks: {self.blocks}; blocks+zstd has some"
            )


class Segment(Struct, frozen=True):
    """A part of the file. `name` is for people, and says which part of an earlier release is likely to be similar."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.MAX_SEGMENT_NAME_CHARS)]
    sha256: Sha256
    bytes: SegmentBytes
    sources: Annotated[list[Source], Meta(min_length=1, max_length=limits.MAX_SOURCES)]

    def __post_init__(self) -> None:
        if not self.name.isprintable():
            raise ValueError(f"a segment's name is {self.name!r}")
        if all(source.base for source in self.sources):
            raise ValueError(f"the segment {self.name} has no source that needs nothing else")
        for source in self.sources:
            if source.encoding == "full" and (source.sha256, source.bytes) != (self.sha256, self.bytes):
                raise ValueError(f"the full source of the segment {self.name} has another digest or size")
            if source.bytes > self.bytes:
                raise ValueError(f"a source of {self.name} has {source.bytes} bytes, the segment {self.bytes}")
            if source.base == self.sha256:
                raise ValueError(f"the segment {self.name} is made from itself")


class File(Struct, frozen=True):
    """The file that the segments make."""

    sha256: Sha256
    bytes: FileBytes


class Sampling(Struct, frozen=True, kw_only=True):
    """How the model answers requests that do not say. None: as the node has it."""

    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.5, le=2)] | None = None
    stop: Annotated[list[Stop], Meta(max_length=limits.MAX_STOP_STRINGS)] = []


class Contains(Struct, frozen=True, tag_field="kind", tag="contains"):
    """The answer has this text in it."""

    text: Expected


class Matches(Struct, frozen=True, tag_field="kind", tag="regex"):
    """The whole answer, its white space as single spaces, fits this pattern, one of those that a node can judge."""

    pattern: Annotated[str, Meta(min_length=1, max_length=limits.MAX_SCHEMA_PATTERN_CHARS)]

    def __post_init__(self) -> None:
        try:
            parse_pattern(self.pattern)
        except ValueError as error:
            raise ValueError(f"the pattern {self.pattern!r} {error}") from None


class Fits(Struct, frozen=True, tag_field="kind", tag="json_schema"):
    """The answer is JSON that fits this schema."""

    schema: dict[str, Any]

    def __post_init__(self) -> None:
        check_schema(self.schema)


class Resembles(Struct, frozen=True, tag_field="kind", tag="similar"):
    """The embedding of the answer and that of this text have at least this cosine."""

    text: Expected
    cosine: Annotated[float, Meta(gt=0, le=1)]


Expectation = Contains | Matches | Fits | Resembles


class GoldenPrompt(Struct, frozen=True, kw_only=True):
    """A prompt that the node asks before the release serves; the answer must be all that is expected of it."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=limits.MAX_MESSAGES)]
    max_tokens: Annotated[int, Meta(ge=1, le=limits.MAX_TOKENS)]
    response_format: ResponseFormat | None = None
    expect: Annotated[list[Expectation], Meta(min_length=1, max_length=limits.MAX_EXPECTATIONS)]

    def __post_init__(self) -> None:
        form = self.response_format
        if form is None:
            return
        if (form.type == "json_schema") != (form.json_schema is not None):
            raise ValueError("a response_format of type json_schema, and no other, has a schema")
        if form.json_schema is not None:
            check_schema(form.json_schema.schema)


class Perplexity(Struct, frozen=True):
    """A text on which the model's perplexity must not be above the ceiling."""

    text: Annotated[str, Meta(min_length=1, max_length=limits.MAX_PERPLEXITY_CHARS)]
    ceiling: Annotated[float, Meta(gt=1, le=1e6)]


class Requires(Struct, frozen=True, kw_only=True):
    """What a node must be like. Empty or None: it does not matter.

    `architecture` is the model's, as GGUF names it ("llama"). `machines` are words of `uname -m`, of which the node is
    one; `features` are flags of /proc/cpuinfo, of which its processor has all.
    """

    architecture: Word | None = None
    machines: Annotated[list[Word], Meta(max_length=16)] = []
    features: Annotated[list[Word], Meta(max_length=64)] = []


class Facts(Struct, frozen=True, kw_only=True):
    """What a publisher says of a file, and a node goes by. None: nothing is said."""

    requires: Requires = Requires()
    chat_template: Annotated[str, Meta(min_length=1, max_length=limits.MAX_CHAT_TEMPLATE_CHARS)] | None = None
    sampling: Sampling = Sampling()
    context_tokens: Annotated[int, Meta(ge=1, le=2**24)] | None = None
    golden: Annotated[list[GoldenPrompt], Meta(max_length=limits.MAX_GOLDEN_PROMPTS)] = []
    perplexity: Perplexity | None = None
    min_speed: (
        Annotated[float, Meta(gt=0, le=1, description="Tokens a second, as a part of what the node did before.")] | None
    ) = None


class Release(Facts, frozen=True, kw_only=True):
    """The manifest of a release."""

    name: Id
    version: Version
    kind: Kind
    file: File
    segments: Annotated[list[Segment], Meta(min_length=1, max_length=limits.MAX_SEGMENTS)]
    base_sha256: Annotated[Sha256, Meta(description="The model file that an adapter was made for.")] | None = None
    license: License
    memory_bytes: MemoryBytes

    def __post_init__(self) -> None:
        if (self.kind == "adapter") != (self.base_sha256 is not None):
            raise ValueError(f"the kind is {self.kind} and base_sha256 is {self.base_sha256}; an adapter has a base")
        total = sum(segment.bytes for segment in self.segments)
        if total != self.file.bytes:
            raise ValueError(f"the segments have {total} bytes together, the file {self.file.bytes}")
        sizes: dict[str, int] = {}
        for segment in self.segments:
            if sizes.setdefault(segment.sha256, segment.bytes) != segment.bytes:
                raise ValueError(f"the digest of the segment {segment.name} stands for two sizes")

    @property
    def reference(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


def target_path(reference: str) -> str:
    """What TUF metadata calls the manifest of `name@version`."""
    name, _, version = reference.partition("@")
    return f"{name}/{version}.json"


def reference_of(path: str) -> str:
    """The inverse of `target_path`."""
    return path.removesuffix(".json").replace("/", "@", 1)


def object_path(sha256: str) -> str:
    """Where the object of this digest is, below the folder or the address where releases are."""
    return f"objects/{sha256[:2]}/{sha256}"


def decode_release(data: bytes) -> Release:
    """The manifest in these bytes, which somebody has verified before.

    Raises:
        BadRelease: they are none, or one that breaks a rule; says which and where.
    """
    if len(data) > limits.MAX_MANIFEST_BYTES:
        raise _bad(f"it has {len(data)} bytes, at most {limits.MAX_MANIFEST_BYTES} are read")
    try:
        return msgspec.json.decode(data, type=Release)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _bad(f"{error}") from None


def encode_release(release: Release) -> bytes:
    """The bytes of a manifest: for the same release the same ones, and such that `decode_release` takes.

    Raises:
        BadRelease: the release breaks a rule; says which.
    """
    data = msgspec.json.encode(release, order="deterministic")
    decode_release(data)
    return data


def _bad(why: str) -> BadRelease:
    return BadRelease(f"cannot read the release manifest: {why}")
