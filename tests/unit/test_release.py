from typing import Any

import msgspec
import pytest

from contract import limits
from contract.release import BadRelease, Release, decode_release, encode_release, object_path

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def manifest() -> dict[str, Any]:
    """A manifest with everything that one can have, as plain values."""
    return {
        "name": "tiny",
        "version": "1.0+q4",
        "kind": "model",
        "file": {"sha256": C, "bytes": 30},
        "segments": [
            {"name": "metadata", "sha256": A, "bytes": 10, "sources": [
                {"encoding": "full", "sha256": A, "bytes": 10},
            ]},
            {"name": "token_embd.weight#0", "sha256": B, "bytes": 20, "sources": [
                {"encoding": "zstd", "sha256": C, "bytes": 18},
                {"encoding": "xor+zstd", "sha256": C, "bytes": 9, "base": A},
            ]},
        ],
        "license": "Apache-2.0",
        "chat_template": "{{ messages }}",
        "sampling": {"temperature": 0.2, "stop": ["</s>"]},
        "context_tokens": 2048,
        "memory_bytes": 10**8,
        "golden": [
            {
                "messages": [{"role": "user", "content": "2 + 2?"}],
                "max_tokens": 8,
                "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "integer"}}},
                "expect": [
                    {"kind": "contains", "text": "4"},
                    {"kind": "regex", "pattern": "^=? ?4$"},
                    {"kind": "json_schema", "schema": {"type": "integer"}},
                    {"kind": "similar", "text": "four", "cosine": 0.6},
                ],
            }
        ],
        "perplexity": {"text": "Once upon a time", "ceiling": 20.0},
        "min_speed": 0.7,
    }  # fmt: skip


def decoded(values: dict[str, Any]) -> Release:
    """The release that these values are."""
    return decode_release(msgspec.json.encode(values))


def test_a_release_comes_back_from_its_bytes() -> None:
    """With every field, and the same release always gives the same bytes."""
    release = decoded(manifest())
    assert release.reference == "tiny@1.0+q4"
    assert len(release.golden[0].expect) == 4
    assert decode_release(encode_release(release)) == release
    assert encode_release(decode_release(encode_release(release))) == encode_release(release)


def test_objects_are_named_by_their_digest() -> None:
    """In folders by its first two digits: some file systems are slow with 100,000 files in one."""
    assert object_path(A) == f"objects/aa/{A}"


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("name",), "Tiny", "regex"),
        (("name",), "../tiny", "regex"),
        (("version",), "1/2", "regex"),
        (("kind",), "program", "Invalid enum value"),
        (("kind",), "adapter", "an adapter has a base"),
        (("base_sha256",), A, "an adapter has a base"),
        (("file", "sha256"), "A" * 64, "regex"),
        (("file", "bytes"), 31, "the segments have 30 bytes together, the file 31"),
        (("file", "bytes"), limits.MAX_RELEASE_FILE_BYTES + 1, "<= 68719476736"),
        (("segments",), [], "length >= 1"),
        (("segments", 0, "bytes"), 0, ">= 1"),
        (("segments", 0, "bytes"), limits.MAX_SEGMENT_BYTES + 1, "<= 4194304"),
        (("segments", 0, "bytes"), 9, "another digest or size"),
        (("segments", 0, "name"), "a\nb", "a segment's name is"),
        (("segments", 0, "name"), "a" * 321, "length <= 320"),
        (("segments", 0, "sources"), [], "length >= 1"),
        (("segments", 0, "sources", 0, "sha256"), B, "another digest or size"),
        (("segments", 0, "sources", 0, "sha256"), A + "\n", "regex"),
        (("segments", 0, "sources", 0, "encoding"), "brotli", "Invalid enum value"),
        (("segments", 0, "sources", 0, "base"), B, "have one"),
        (("segments", 1, "sha256"), A, "made from itself"),
        (("segments", 1, "sources", 0, "bytes"), 21, "a source of token_embd.weight#0 has 21 bytes, the segment 20"),
        (("segments", 1, "sources", 1, "base"), None, "have one"),
        (("segments", 1, "sources", 1, "base"), B, "made from itself"),
        (("segments", 1, "sources"), [{"encoding": "xor+zstd", "sha256": C, "bytes": 9, "base": A}], "nothing else"),
        (("segments", 1, "sources"), [{"encoding": "zstd", "sha256": C, "bytes": 9}] * 9, "length <= 8"),
        (("license",), "", "length >= 1"),
        (("sampling", "temperature"), 3, "<= 2"),
        (("context_tokens",), 0, ">= 1"),
        (("memory_bytes",), -1, ">= 0"),
        (("golden", 0, "messages"), [], "length >= 1"),
        (("golden", 0, "expect"), [], "length >= 1"),
        (("golden", 0, "expect", 0, "kind"), "vibes", "Invalid value"),
        (("golden", 0, "expect", 1, "pattern"), "4", "must begin with '^'"),
        (("golden", 0, "expect", 1, "pattern"), "^(.?){24}$", "may be empty"),
        (("requires",), {"architecture": "a b"}, "regex"),
        (("golden", 0, "expect", 2, "schema"), {"type": "whole"}, "whole"),
        (("golden", 0, "expect", 3, "cosine"), 1.1, "<= 1"),
        (("golden", 0, "response_format", "type"), "text", "and no other, has a schema"),
        (("perplexity", "ceiling"), 1, "> 1"),
        (("min_speed",), 0, "> 0"),
    ],
)  # fmt: skip
def test_a_manifest_that_breaks_a_rule_is_refused(path: tuple[str | int, ...], value: object, why: str) -> None:
    """Everything else in it is right, and the sentence says what is not."""
    values = manifest()
    place: Any = values
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(BadRelease) as refused:
        decoded(values)
    assert f"{refused.value}".startswith("cannot read the release manifest: ")
    assert why in f"{refused.value}"


def test_one_digest_has_one_size() -> None:
    """Else a segment that is held would be written where it does not fit."""
    values = manifest()
    values["segments"][1] |= {"sha256": A, "sources": [{"encoding": "zstd", "sha256": C, "bytes": 9}]}
    with pytest.raises(BadRelease, match=r"the digest of the segment token_embd.weight#0 stands for two sizes"):
        decoded(values)


def test_something_else_is_no_manifest() -> None:
    """Neither no JSON, nor JSON that is too deep or too long to be read."""
    for data in (b"", b"\xff", b"[" * 100_000, b"null", b" " * (limits.MAX_MANIFEST_BYTES + 1)):
        with pytest.raises(BadRelease, match="cannot read the release manifest: "):
            decode_release(data)


def test_what_breaks_a_rule_is_not_written() -> None:
    """A publisher learns it before a node does."""
    release = msgspec.structs.replace(decoded(manifest()), min_speed=2.0)
    with pytest.raises(BadRelease, match=r"min_speed"):
        encode_release(release)
