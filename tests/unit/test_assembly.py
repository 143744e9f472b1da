import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import DamagedError, NoSpaceError, StoreError
from agent.update.assemble import Assembly
from agent.update.held import Place, places_of
from agent.update.plan import plan_for
from contract.release import BadRelease, File, Release
from contract.segments import WrongBytes
from fleet.releases.objects import Objects
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.noise import noise
from tests.fakes.releases import assemble, make_release

KINDS = ("f32", "f16", "q4_0", "q8_0", "i8")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    """An empty folder of objects."""
    return Objects(tmp_path / "releases")


def small_file(path: Path, seed: int = 0, template: str = "{{ messages }}") -> Path:
    """A file of twelve layers whose tensors, of which two are equal, depend on `seed` in two layers only."""
    builder = GgufBuilder().key("tokenizer.chat_template", "string", template)
    for layer in range(12):
        own = seed if layer in (3, 4) else 0
        content = noise(40_000, 100 * own + layer % 11)
        builder.tensor(f"blk.{layer}.up.weight", "f32", (10_000,), content)
    path.write_bytes(builder.build())
    return path


def changed_file(path: Path, template: str = "{{ messages }}") -> Path:
    """The small file with a byte in a hundred changed in two layers."""
    raw = bytearray(small_file(path, template=template).read_bytes())
    for layer in (3, 4):
        start = raw.index(noise(40_000, layer))
        for at in range(start, start + 40_000, 100):
            raw[at] ^= 1
    path.write_bytes(raw)
    return path


def fetched(plan_steps: Any, objects: Objects) -> Iterator[tuple[Any, bytes]]:
    """Steps with what their sources hold."""
    for step in plan_steps:
        yield step, objects.read(step.source.sha256) if step.source else b""


@st.composite
def gguf_files(draw: st.DrawFn) -> bytes:
    """Files with any tensors, in any order, with holes and with bytes behind."""
    builder = GgufBuilder()
    builder.alignment = draw(st.sampled_from([1, 32, 64, 4096]))
    builder.key("general.alignment", "u32", builder.alignment)
    for number in range(draw(st.integers(0, 3))):
        builder.key(f"k{number}", "[u8]", draw(st.binary(max_size=50)) * draw(st.sampled_from([1, 3000])))
    for number in range(draw(st.integers(0, 12))):
        name = f"{draw(st.sampled_from(['', 'blk.0.', 'blk.1.']))}t{number}"
        kind, rows = draw(st.sampled_from(KINDS)), draw(st.sampled_from([1, 3, 1100]))
        builder.tensor(name, kind, (64, rows))
        code, shape, zeros = builder.tensors[name]
        builder.tensors[name] = (code, shape, noise(len(zeros), draw(st.integers(0, 3))))
    if draw(st.booleans()):
        builder.tensor("large", "i8", (64, 80_000))
    builder.trailing = draw(st.binary(max_size=100))
    return builder.build()


@settings(max_examples=25)  # each packs several megabytes
@given(gguf_files(), st.data())
def test_what_was_cut_is_assembled_to_the_same_bytes(raw: bytes, data: Any) -> None:
    """Fresh, and from any file that went before it, from which only what is different is fetched."""
    flips = data.draw(st.lists(st.integers(4 + 4, len(raw) - 1), max_size=3)) if len(raw) > 8 else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objects = Objects(folder / "releases")
        (folder / "one").write_bytes(raw)
        one = make_release(folder / "one", objects)
        plan = assemble(one, folder / "copy", objects)
        assert (folder / "copy").read_bytes() == raw
        assert plan.fetch_bytes <= len(raw)
        other = bytearray(raw)
        last_tensor = sum(segment.bytes for segment in one.segments[:-1])
        for at in flips:
            other[max(at, last_tensor)] ^= 0x55
        (folder / "two").write_bytes(other)
        two = make_release(folder / "two", objects, [one], version="2")
        plan = assemble(two, folder / "next", objects, places_of(one, folder / "copy"))
        assert (folder / "next").read_bytes() == other
        assert plan.fetch_bytes <= min(one.segments[-1].bytes, 400)


def test_only_what_is_new_is_fetched(tmp_path: Path, objects: Objects) -> None:
    """Held segments are copied, differences are used where their base is held, equal segments come once."""
    one = make_release(small_file(tmp_path / "one"), objects)
    two = make_release(changed_file(tmp_path / "two"), objects, [one], version="2")
    fresh = plan_for(two, {})
    assert len(fresh.steps) == len(two.segments) - 1  # two layers are equal
    assert fresh.fetch_bytes == sum(step.segment.sources[0].bytes for step in fresh.steps)
    held = places_of(one, tmp_path / "one")
    plan = plan_for(two, held)
    assert [step.segment.name for step in plan.steps if step.source] == ["blk.3.up.weight", "blk.4.up.weight"]
    assert {step.source.encoding for step in plan.steps if step.source} == {"xor+zstd"}
    assert 0 < plan.fetch_bytes < 10_000
    done = {step.segment.sha256 for step in plan.steps[:-1]}
    assert plan_for(two, held, done).steps == plan.steps[-1:]


def test_a_release_knows_the_differences_to_several_earlier_ones(tmp_path: Path, objects: Objects) -> None:
    """A node that missed one update does not pay for it; nor is anything packed again that was published."""
    paths = [small_file(tmp_path / "1"), changed_file(tmp_path / "2"), changed_file(tmp_path / "3", "{{ m }}")]
    one = make_release(paths[0], objects)
    two = make_release(paths[1], objects, [one], version="2")
    three = make_release(paths[2], objects, [one, two], version="3")
    assert plan_for(three, places_of(two, paths[1])).fetch_bytes < 1000
    assert plan_for(three, places_of(one, paths[0])).fetch_bytes < 10_000
    assert {s.sha256: s.sources for s in three.segments}.items() >= {
        s.sha256: s.sources for s in two.segments if s.name.startswith("blk.")
    }.items()


def test_an_interrupted_assembly_goes_on_where_it_was(tmp_path: Path, objects: Objects) -> None:
    """Stopped after every step, with or without the last one on record, it fetches that one again at most."""
    release = make_release(small_file(tmp_path / "one"), objects)
    done: set[str] = set()
    fetches = 0
    for is_recorded in [False, True] * len(release.segments):
        steps = plan_for(release, {}, done).steps
        with Assembly(release, tmp_path / "part", {}) as assembly:
            for step, data in list(fetched(steps[:1], objects)):
                assembly.put(step, data)
                fetches += 1
                assembly.sync()
                if is_recorded:
                    done.add(step.segment.sha256)
    distinct = len({segment.sha256 for segment in release.segments})
    assert fetches == 2 * distinct
    with Assembly(release, tmp_path / "part", {}) as assembly:
        assembly.finish()
    assert (tmp_path / "part").read_bytes() == (tmp_path / "one").read_bytes()


def test_what_is_in_a_file_can_be_found_out(tmp_path: Path, objects: Objects) -> None:
    """Also when the record is lost, and when a bit of the file has changed; only that is fetched again."""
    release = make_release(small_file(tmp_path / "one"), objects)
    assemble(release, tmp_path / "part", objects)
    raw = bytearray((tmp_path / "part").read_bytes())
    raw[raw.index(noise(40_000, 5)) + 7] ^= 1
    (tmp_path / "part").write_bytes(raw)
    with Assembly(release, tmp_path / "part", {}) as assembly:
        with pytest.raises(DamagedError, match=r"1 of its segments .* blk.5.up.weight is the first"):
            assembly.finish()
        steps = plan_for(release, {}, assembly.intact()).steps
        assert len(steps) == 1
        for step, data in fetched(steps, objects):
            assembly.put(step, data)
        assembly.finish()


def test_wrong_bytes_change_nothing(tmp_path: Path, objects: Objects) -> None:
    """A flipped bit or another segment's bytes: what stands in the file stays."""
    release = make_release(small_file(tmp_path / "one"), objects)
    assemble(release, tmp_path / "part", objects)
    before = (tmp_path / "part").read_bytes()
    first, second, *_ = [(step, data) for step, data in fetched(plan_for(release, {}).steps, objects)]
    with Assembly(release, tmp_path / "part", {}) as assembly:
        for data in (second[1], first[1][:-1], first[1][:-1] + bytes([first[1][-1] ^ 1]), b""):
            with pytest.raises(WrongBytes, match="cannot make the segment metadata"):
                assembly.put(first[0], data)
    assert (tmp_path / "part").read_bytes() == before


@pytest.mark.parametrize("spoil", ["changed", "cut", "gone"])
def test_a_held_file_that_is_damaged_is_noticed(tmp_path: Path, objects: Objects, spoil: str) -> None:
    """It is not copied and nothing is made from it; the error names it."""
    held_path = small_file(tmp_path / "one")
    one = make_release(held_path, objects)
    two = make_release(changed_file(tmp_path / "two"), objects, [one], version="2")
    held = places_of(one, held_path)
    plan = plan_for(two, held)
    raw = held_path.read_bytes()
    if spoil == "changed":
        held_path.write_bytes(bytes(byte ^ 1 for byte in raw))
    elif spoil == "cut":
        held_path.write_bytes(b"")
    else:
        held_path.unlink()
    with Assembly(two, tmp_path / "part", held) as assembly:
        for step, data in fetched(plan.steps, objects):
            with pytest.raises(DamagedError, match=r"cannot use \d+ bytes at \d+ of .*one as the segment"):
                assembly.put(step, data)


def test_a_plan_for_more_than_is_held_is_refused(tmp_path: Path, objects: Objects) -> None:
    """What was held when the plan was made may be gone when it is followed."""
    one = make_release(small_file(tmp_path / "one"), objects)
    plan = plan_for(one, places_of(one, tmp_path / "one"))
    with (
        Assembly(one, tmp_path / "part", dict[str, Place]()) as assembly,
        pytest.raises(DamagedError, match="is not held any more; plan again"),
    ):
        assembly.put(plan.steps[0])


def test_a_manifest_with_another_digest_for_the_whole_is_refused(tmp_path: Path, objects: Objects) -> None:
    """All segments are right then, so nothing is fetched again."""
    release = make_release(small_file(tmp_path / "one"), objects)
    other = msgspec.structs.replace(release, file=File("0" * 64, release.file.bytes))
    with pytest.raises(BadRelease, match=r"cannot use m@1: its segments make .*, not 0000"):
        assemble(other, tmp_path / "part", objects)


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, objects: Objects) -> None:
    """The whole size is reserved when the file is opened."""
    release = make_release(small_file(tmp_path / "one"), objects)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (release.file.bytes - 1, hard))
    try:
        with pytest.raises(NoSpaceError, match=f"of {release.file.bytes} bytes: File too large; free some"):
            Assembly(release, tmp_path / "part", {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_leftover_of_another_size_does_not_matter(tmp_path: Path, objects: Objects) -> None:
    """The file gets the release's size; a link in its place is not followed."""
    release = make_release(small_file(tmp_path / "one"), objects)
    (tmp_path / "part").write_bytes(bytes(release.file.bytes + 5))
    assemble(release, tmp_path / "part", objects)
    assert (tmp_path / "part").stat().st_size == release.file.bytes
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with pytest.raises(StoreError, match="cannot open"):
        Assembly(release, tmp_path / "link", {})


def digests(release: Release) -> set[str]:
    """What a release is made of."""
    return {segment.sha256 for segment in release.segments}


def test_an_edit_of_the_metadata_keeps_the_tensors(tmp_path: Path, objects: Objects) -> None:
    """Equal tensors are equal segments, though they lie elsewhere in the file now."""
    one = make_release(small_file(tmp_path / "one"), objects)
    two = make_release(small_file(tmp_path / "two", template="{{ messages }}" * 100), objects, [one], version="2")
    assert len(digests(two) - digests(one)) <= 2
    plan = assemble(two, tmp_path / "part", objects, places_of(one, tmp_path / "one"))
    assert plan.fetch_bytes < 2000
