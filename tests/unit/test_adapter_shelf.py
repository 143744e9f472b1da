"""Adapter files that come, change and go."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.adapters import VERSION_DIGITS, AdapterShelf
from agent.models import digest_of
from agent.weights.base_model import Base, read_base_file
from contract.errors import Refused
from tests.fakes.adapters import make_adapter
from tests.fakes.tiny_model import write_tiny_model

Scene = Callable[[AdapterShelf, Path], Awaitable[None]]


@pytest.fixture(scope="module")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model."""
    return write_tiny_model(tmp_path_factory.mktemp("base") / "base.gguf")


@pytest.fixture(scope="module")
def base(base_file: Path) -> Base:
    """What is known of it."""
    return read_base_file(base_file)


@pytest.fixture
def other_base(tmp_path: Path) -> Path:
    """A base model of another width."""
    return write_tiny_model(tmp_path / "other-base", width=128)


def play(folder: Path, scene: Scene) -> None:
    """Runs a scene with a shelf on a folder."""
    adapters = folder / "adapters"
    adapters.mkdir()

    async def run() -> None:
        await scene(AdapterShelf(adapters), adapters)

    asyncio.run(run())


def refusal(shelf: AdapterShelf, reference: str, base: Base) -> Refused:
    """How the shelf refuses a reference."""
    with pytest.raises(Refused) as refused:
        shelf.find(reference, base)
    return refused.value


def test_an_adapter_is_found_by_name_and_by_version(tmp_path: Path, base_file: Path, base: Base) -> None:
    """The file's name is its name, the digest's beginning its version; answers give both."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        path = make_adapter(folder / "Home Lights.gguf", base_file)
        assert await shelf.look(at_once=True)
        found = shelf.find("home-lights", base)
        assert (found.path, found.sha256) == (path, digest_of(path))
        assert found.label == f"home-lights@{digest_of(path)[:VERSION_DIGITS]}"
        assert shelf.find(found.label, base) == found
        assert not await shelf.look(at_once=True)

    play(tmp_path, scene)


def test_what_is_not_here_is_refused_with_what_is(tmp_path: Path, base_file: Path, base: Base) -> None:
    """404 lists the adapters, by name; another version of one is not it."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        refused = refusal(shelf, "b", base)
        assert (refused.status, refused.code) == (404, "adapter")
        assert refused.message == "cannot find adapter 'b': this node has none"
        for number, name in enumerate(("zeta", "alpha")):
            make_adapter(folder / f"{name}.gguf", base_file, seed=number)
        await shelf.look(at_once=True)
        labels = [file.label for file in shelf.all()]
        assert [label.partition("@")[0] for label in labels] == ["alpha", "zeta"]
        assert refusal(shelf, "zeta@000000000000", base).message.endswith(f"this node has {', '.join(labels)}")

    play(tmp_path, scene)


def test_an_adapter_for_another_base_is_refused_with_the_reason(
    tmp_path: Path, base_file: Path, other_base: Path, base: Base
) -> None:
    """400 says what does not fit, and the card of this base leaves it out."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        make_adapter(folder / "stranger.gguf", other_base)
        make_adapter(folder / "fits.gguf", base_file)
        await shelf.look(at_once=True)
        refused = refusal(shelf, "stranger", base)
        assert (refused.status, refused.code) == (400, "adapter")
        assert refused.message.startswith("cannot use adapter 'stranger' with this model: ")
        assert "the base has 64 by 64" in refused.message
        (card,) = shelf.cards("ab" * 32, base)
        assert (card.name, card.version, card.base_sha256) == ("fits", card.sha256[:VERSION_DIGITS], "ab" * 32)

    play(tmp_path, scene)


def test_a_file_that_grows_is_left_alone(tmp_path: Path, base_file: Path, base: Base) -> None:
    """It counts once two looks in a row have found it the same."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        whole = make_adapter(tmp_path / "whole", base_file).read_bytes()
        path = folder / "a.gguf"
        for part in (1000, 5000, len(whole)):
            path.write_bytes(whole[:part])
            assert not await shelf.look()
        assert await shelf.look()
        assert shelf.problems == {}
        assert shelf.find("a", base).sha256 == digest_of(path)

    play(tmp_path, scene)


def test_a_changed_file_is_another_version(tmp_path: Path, base_file: Path, base: Base) -> None:
    """The name then means the new one, and the old version is no longer there."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        path = make_adapter(folder / "a.gguf", base_file, seed=1)
        await shelf.look(at_once=True)
        old = shelf.find("a", base)
        make_adapter(tmp_path / "next", base_file, seed=2).rename(path)
        assert not await shelf.look()
        assert await shelf.look()
        assert shelf.find("a", base).label != old.label
        assert refusal(shelf, old.label, base).status == 404

    play(tmp_path, scene)


def test_a_removed_file_is_gone_at_once(tmp_path: Path, base_file: Path, base: Base) -> None:
    """The next look forgets it, whether it could be used or not."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        paths = [make_adapter(folder / "a.gguf", base_file), folder / "bad.gguf"]
        paths[1].write_bytes(b"GGUF")
        await shelf.look(at_once=True)
        for path in paths:
            path.unlink()
        assert await shelf.look()
        assert (shelf.all(), shelf.problems) == ([], {})
        assert refusal(shelf, "a", base).status == 404

    play(tmp_path, scene)


def test_a_bad_file_is_named_with_its_problem(tmp_path: Path, base_file: Path, base: Base) -> None:
    """It harms no other; once it is replaced by a good one, it is served."""
    model = base_file.read_bytes()

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        make_adapter(folder / "good.gguf", base_file)
        bad = folder / "bad.gguf"
        bad.write_bytes(model)
        (folder / "...gguf").write_bytes(b"")
        (folder / "folder.gguf").mkdir()
        (folder / "dangling.gguf").symlink_to(tmp_path / "nowhere")
        await shelf.look(at_once=True)
        assert shelf.problems[bad] == f"cannot use the adapter {bad}: general.type is 'model', not 'adapter'"
        assert [file.name for file in shelf.all()] == ["good"]
        assert set(shelf.problems) == {folder / f"{name}.gguf" for name in ("bad", "..", "folder", "dangling")}
        make_adapter(bad, base_file)
        await shelf.look(at_once=True)
        assert shelf.find("bad", base).name == "bad"
        assert bad not in shelf.problems

    play(tmp_path, scene)


def test_a_file_far_too_large_for_an_adapter_is_not_read(tmp_path: Path) -> None:
    """A model that was put there by mistake takes no memory: what it is stands in its beginning."""

    async def scene(shelf: AdapterShelf, folder: Path) -> None:
        path = folder / "huge.gguf"
        with path.open("wb") as file:
            file.truncate(1 << 42)
        await asyncio.wait_for(shelf.look(at_once=True), 20)
        assert list(shelf.problems) == [path]

    play(tmp_path, scene)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """A node without adapters needs none."""
    shelf = AdapterShelf(tmp_path / "adapters")
    assert not asyncio.run(shelf.look(at_once=True))
    assert shelf.all() == []
