"""Adapters as the daemon sees them: files that are dropped, names that come, change and go."""

import asyncio
import fcntl
import mmap
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.adapters import AdapterShelf, open_sealed
from agent.errors import ModelError, StoreError
from agent.models import BaseFile, digest_of
from agent.store.adapter_entries import VERSION_DIGITS
from agent.store.adapters import AdapterStore
from contract.errors import Refused
from tests.fakes.adapters import adapter_builder, make_adapter
from tests.fakes.tiny_model import write_tiny_model


class Scene:
    """A shelf on a state directory, with a base model."""

    def __init__(self, folder: Path, *, budget_bytes: int = 64 << 20) -> None:
        self.state_dir = folder
        self.folder = folder / "adapters"
        self.folder.mkdir()
        self.base_file = write_tiny_model(folder / "base.gguf")
        self.base = digest_of(self.base_file)
        self.bases = [BaseFile("base@1", self.base, str(self.base_file), is_default=True)]
        self.in_use: set[str] = set()
        self.shelf = AdapterShelf(
            folder, budget_bytes=budget_bytes, bases=lambda: self.bases, in_use=lambda: self.in_use
        )

    def drop(self, name: str, seed: int = 1) -> str:
        """Puts an adapter into the folder, whole; returns its digest."""
        made = make_adapter(self.state_dir / "made", self.base_file, seed=seed)
        return digest_of(made.rename(self.folder / f"{name}.gguf"))

    def refusal(self, reference: str, base: str = "") -> Refused:
        """How a reference is refused."""
        with pytest.raises(Refused) as refused:
            self.shelf.find(reference, base or self.base)
        return refused.value


def play(folder: Path, act: Callable[[Scene], Awaitable[None]]) -> None:
    """Runs a scene."""

    async def run() -> None:
        scene = Scene(folder)
        try:
            await act(scene)
        finally:
            await scene.shelf.close()

    asyncio.run(run())


def test_a_dropped_file_is_imported_under_its_name_and_removed(tmp_path: Path) -> None:
    """The file's name is the adapter's name, the digest's beginning its version."""

    async def act(scene: Scene) -> None:
        sha256 = scene.drop("Home Lights")
        assert await scene.shelf.look(at_once=True)
        found = scene.shelf.find("home-lights", scene.base)
        assert (found.sha256, found.base_sha256) == (sha256, scene.base)
        assert found.label == f"home-lights@{sha256[:VERSION_DIGITS]}"
        assert scene.shelf.find(found.label, scene.base) == found
        assert list(scene.folder.iterdir()) == []
        assert not await scene.shelf.look(at_once=True)

    play(tmp_path, act)


def test_what_is_not_here_is_refused_with_what_is(tmp_path: Path) -> None:
    """404 lists the adapters, by name; another version of one is not it."""

    async def act(scene: Scene) -> None:
        refused = scene.refusal("b")
        assert (refused.status, refused.code) == (404, "adapter")
        assert refused.message == "cannot find adapter 'b': this node has none"
        for number, name in enumerate(("zeta", "alpha")):
            scene.drop(name, seed=number)
        await scene.shelf.look(at_once=True)
        labels = [entry.label for entry in scene.shelf.all()]
        assert [label.partition("@")[0] for label in labels] == ["alpha", "zeta"]
        assert scene.refusal("zeta@000000000000").message.endswith(f"this node has {', '.join(labels)}")

    play(tmp_path, act)


def test_an_adapter_for_another_base_is_refused_with_both_digests(tmp_path: Path) -> None:
    """400 names what it is for and what the model is, and the card of that model leaves it out."""

    async def act(scene: Scene) -> None:
        sha256 = scene.drop("a")
        await scene.shelf.look(at_once=True)
        refused = scene.refusal("a", "f" * 64)
        assert (refused.status, refused.code) == (400, "adapter")
        assert scene.base in refused.message
        assert "f" * 64 in refused.message
        assert scene.shelf.cards("f" * 64) == []
        (card,) = scene.shelf.cards(scene.base)
        assert (card.name, card.version, card.base_sha256) == ("a", sha256[:VERSION_DIGITS], scene.base)

    play(tmp_path, act)


def test_a_base_that_it_failed_on_is_refused_with_the_scores(tmp_path: Path) -> None:
    """What its file says of its test decides, also for a model that it was not trained on."""
    similar, worse = "e" * 64, "f" * 64

    async def act(scene: Scene) -> None:
        builder = adapter_builder(scene.base_file)
        builder.key("shoal.adapter.base_sha256", "string", scene.base)
        scores = f'{{"{scene.base}": 0.97, "{similar}": 0.96, "{worse}": 0.67}}'
        (scene.folder / "a.gguf").write_bytes(builder.key("shoal.adapter.scores", "string", scores).build())
        await scene.shelf.look(at_once=True)
        assert scene.shelf.find("a", scene.base) == scene.shelf.find("a", similar)
        assert len(scene.shelf.cards(similar)) == 1
        refused = scene.refusal("a", worse)
        assert (refused.status, refused.code) == (400, "adapter")
        assert "0.670" in refused.message
        assert scene.shelf.cards(worse) == []

    play(tmp_path, act)


def test_one_that_was_tested_on_the_base_that_is_here_can_be_imported(tmp_path: Path) -> None:
    """A node may have another variant of the model than it was trained on; one for a stranger is refused."""

    async def act(scene: Scene) -> None:
        builder = adapter_builder(scene.base_file)
        builder.key("shoal.adapter.base_sha256", "string", "e" * 64)
        (scene.folder / "stranger.gguf").write_bytes(builder.build())
        builder.key("shoal.adapter.scores", "string", f'{{"{"e" * 64}": 0.9, "{scene.base}": 0.9}}')
        (scene.folder / "a.gguf").write_bytes(builder.build())
        await scene.shelf.look(at_once=True)
        assert [entry.name for entry in scene.shelf.all()] == ["a"]
        assert scene.shelf.find("a", scene.base).name == "a"
        assert "e" * 64 in scene.shelf.problems[scene.folder / "stranger.gguf"]

    play(tmp_path, act)


def test_a_file_that_grows_is_left_alone(tmp_path: Path) -> None:
    """It counts once two looks in a row have found it the same."""

    async def act(scene: Scene) -> None:
        whole = make_adapter(tmp_path / "whole", scene.base_file).read_bytes()
        path = scene.folder / "a.gguf"
        for part in (1000, 5000, len(whole)):
            path.write_bytes(whole[:part])
            assert not await scene.shelf.look()
            assert scene.shelf._importing is None
        await scene.shelf.look()
        assert scene.shelf._importing
        await scene.shelf._importing
        assert await scene.shelf.look()
        assert scene.shelf.problems == {}
        assert scene.shelf.find("a", scene.base).bytes == len(whole)

    play(tmp_path, act)


def test_a_new_file_of_a_name_moves_the_name(tmp_path: Path) -> None:
    """The old version is not found any more, but stays until no request uses it."""

    async def act(scene: Scene) -> None:
        old = scene.drop("a", seed=1)
        await scene.shelf.look(at_once=True)
        scene.in_use = {old}
        new = scene.drop("a", seed=2)
        assert await scene.shelf.look(at_once=True)
        assert scene.shelf.find("a", scene.base).sha256 == new
        assert scene.refusal(f"a@{old[:VERSION_DIGITS]}").status == 404
        os.close(await scene.shelf.open(old))
        await scene.shelf.look()
        os.close(await scene.shelf.open(old))
        scene.in_use = set()
        await scene.shelf.look()
        with pytest.raises(StoreError, match="it was removed"):
            await scene.shelf.open(old)

    play(tmp_path, act)


def test_what_a_command_changes_is_seen_at_the_next_look(tmp_path: Path) -> None:
    """Names that another process pins and removes."""

    async def act(scene: Scene) -> None:
        scene.drop("a")
        await scene.shelf.look(at_once=True)
        other = AdapterStore(scene.state_dir, repair=False)
        other.pin("a", True)
        assert await scene.shelf.look()
        assert scene.shelf.find("a", scene.base).pinned
        other.pin("a", False)
        other.remove("a")
        other.close()
        assert await scene.shelf.look()
        assert scene.shelf.all() == []

    play(tmp_path, act)


def test_a_bad_file_stays_with_its_problem(tmp_path: Path) -> None:
    """It harms no other; once it is replaced by a good one, that is served; once it is gone, so is the problem."""

    async def act(scene: Scene) -> None:
        scene.drop("good")
        bad = scene.folder / "bad.gguf"
        bad.write_bytes(scene.base_file.read_bytes())
        (scene.folder / "...gguf").write_bytes(b"")
        (scene.folder / "folder.gguf").mkdir()
        (scene.folder / "dangling.gguf").symlink_to(tmp_path / "nowhere")
        (scene.folder / "link.gguf").symlink_to(make_adapter(tmp_path / "made", scene.base_file))
        os.mkfifo(scene.folder / "fifo.gguf")
        with (scene.folder / "huge.gguf").open("wb") as file:
            file.truncate(1 << 42)
        await scene.shelf.look(at_once=True)
        assert scene.shelf.problems[bad] == f"cannot use the adapter {bad}: general.type is 'model', not 'adapter'"
        assert [entry.name for entry in scene.shelf.all()] == ["good"]
        names = ("bad", "..", "folder", "dangling", "link", "fifo", "huge")
        assert set(scene.shelf.problems) == {scene.folder / f"{name}.gguf" for name in names}
        assert all(problem.startswith("cannot ") for problem in scene.shelf.problems.values())
        scene.drop("bad")
        await scene.shelf.look(at_once=True)
        assert scene.shelf.find("bad", scene.base).name == "bad"
        assert bad not in scene.shelf.problems
        (scene.folder / "huge.gguf").unlink()
        assert await scene.shelf.look()
        assert scene.folder / "huge.gguf" not in scene.shelf.problems

    play(tmp_path, act)


def test_a_file_waits_for_its_base(tmp_path: Path) -> None:
    """One that names no base of this node is tried again when the models change."""

    async def act(scene: Scene) -> None:
        models, scene.bases = scene.bases, []
        scene.drop("early")
        await scene.shelf.look(at_once=True)
        (problem,) = scene.shelf.problems.values()
        assert "cannot tell which base" in problem
        scene.bases = models
        await scene.shelf.look(at_once=True)
        assert scene.shelf.problems == {}
        assert scene.shelf.find("early", scene.base).base_sha256 == scene.base

    play(tmp_path, act)


def test_an_adapter_comes_as_a_file_in_memory_that_nobody_can_change(tmp_path: Path) -> None:
    """Byte for byte what was imported; it can be mapped, and neither written, cut nor opened for writing."""

    async def act(scene: Scene) -> None:
        content = adapter_builder(scene.base_file).build()
        scene.drop("a")
        await scene.shelf.look(at_once=True)
        fd = await scene.shelf.open(scene.shelf.find("a", scene.base).sha256)
        try:
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
                assert memory[:] == content
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == 15
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.write(fd, b"x")
            writable = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            with pytest.raises(PermissionError):
                os.write(writable, b"x")
            with pytest.raises(PermissionError):
                os.ftruncate(writable, 10)
            os.close(writable)
        finally:
            os.close(fd)

    play(tmp_path, act)


def test_what_the_disk_changed_is_not_handed_out(tmp_path: Path) -> None:
    """Digests are compared each time an adapter leaves the store."""

    async def act(scene: Scene) -> None:
        sha256 = scene.drop("a")
        await scene.shelf.look(at_once=True)
        store = scene.shelf._store
        data = bytearray(store._db.execute("SELECT data FROM tensor_data WHERE key = 3").fetchone()[0])
        data[7] ^= 1
        store._db.execute("UPDATE tensor_data SET data = ? WHERE key = 3", (bytes(data),))
        with pytest.raises(ModelError, match=sha256[:VERSION_DIGITS]):
            open_sealed(store, sha256)
        assert any("tensor 3 has changed" in problem for problem in store.problems())

    play(tmp_path, act)


def test_a_node_without_a_folder_has_no_adapters(tmp_path: Path) -> None:
    """A node without adapters needs none."""

    async def run() -> None:
        shelf = AdapterShelf(tmp_path, budget_bytes=1 << 20)
        assert not await shelf.look(at_once=True)
        assert shelf.all() == []
        await shelf.close()

    asyncio.run(run())
