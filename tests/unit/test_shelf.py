"""Model files that come, change and go."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.config import Config, parse_config
from agent.shelf import Shelf
from agent.store.database import Database
from agent.store.facts import Facts
from tests.fakes.hollow_model import hollow_model

ToShelf = Callable[..., Shelf]
Scene = Callable[[ToShelf, Path], Awaitable[None]]


def play(folder: Path, scene: Scene, **model: str) -> None:
    """Runs a scene with a way to make shelves on `folder`, which also gets a models folder."""
    models = folder / "models"
    models.mkdir()
    settings = "".join(f'{key} = "{text}"\n' for key, text in model.items())
    config: Config = parse_config(f'[node]\nstate_dir = "{folder}"\n[model]\n{settings}', "test", {})

    async def run() -> None:
        database = Database(folder)
        try:
            await scene(lambda: Shelf(config, Facts(database)), models)
        finally:
            database.close()

    asyncio.run(run())


def names(shelf: Shelf) -> list[str]:
    """The names of what can be served."""
    return sorted(file.name for file in shelf.files.values())


def test_all_files_are_found_and_the_only_text_model_is_the_default(tmp_path: Path) -> None:
    """An encoder beside it does not make the choice hard."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "Text Model.gguf")
        hollow_model(models / "mini.gguf", architecture="bert")
        shelf = new()
        assert await shelf.look(at_once=True)
        assert names(shelf) == ["mini", "text-model"]
        assert {file.name: file.task for file in shelf.files.values()} == {"mini": "embed", "text-model": "generate"}
        assert shelf.default == models / "Text Model.gguf"
        assert shelf.problem == ""

    play(tmp_path, scene)


def test_the_configuration_names_the_default_alone(tmp_path: Path) -> None:
    """Name and version are those of the default model; the others keep their own."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "a.gguf")
        hollow_model(models / "b.gguf", architecture="bert")
        shelf = new()
        await shelf.look(at_once=True)
        assert shelf.files[models / "a.gguf"].label == "chef@7"
        assert shelf.files[models / "b.gguf"].label.startswith("b@")

    play(tmp_path, scene, name="chef", version="7")


def test_a_file_put_beside_the_default_changes_nothing(tmp_path: Path) -> None:
    """Neither now nor after a restart; with no history there is no default, and that is no fault."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "b.gguf")
        first = new()
        await first.look(at_once=True)
        hollow_model(models / "a.gguf", seed=1)
        await first.look()
        assert await first.look()
        again = new()
        await again.look(at_once=True)
        assert first.default == again.default == models / "b.gguf"
        (models / "b.gguf").rename(models / "c.gguf")
        fresh = new()
        await fresh.look(at_once=True)
        assert (fresh.default, fresh.problem, names(fresh)) == (None, "", ["a", "c"])

    play(tmp_path, scene)


def test_a_file_counts_when_it_does_not_grow_any_more(tmp_path: Path) -> None:
    """One that is being copied into its place is not read."""

    async def scene(new: ToShelf, models: Path) -> None:
        shelf = new()
        await shelf.look(at_once=True)
        assert "has none" in shelf.problem
        whole = hollow_model(tmp_path / "whole").read_bytes()
        for length in (100, 200, len(whole)):
            (models / "a.gguf").write_bytes(whole[:length])
            assert not await shelf.look()
        assert await shelf.look()
        assert (names(shelf), shelf.problems, shelf.problem) == (["a"], {}, "")
        assert not await shelf.look()

    play(tmp_path, scene)


def test_a_changed_file_is_another_version_and_a_removed_one_is_gone(tmp_path: Path) -> None:
    """A rename into place is seen at the second look, a removal at the first."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "a.gguf")
        shelf = new()
        await shelf.look(at_once=True)
        before = shelf.files[models / "a.gguf"]
        hollow_model(tmp_path / "next", seed=1).rename(models / "a.gguf")
        await shelf.look()
        assert await shelf.look()
        after = shelf.files[models / "a.gguf"]
        assert (after.name, after.version != before.version) == ("a", True)
        (models / "a.gguf").unlink()
        assert await shelf.look()
        assert shelf.files == {}

    play(tmp_path, scene)


@pytest.mark.parametrize("content", [b"", b"hello", b"GGUF" + bytes(100)])
def test_a_bad_file_is_a_problem_of_its_own(tmp_path: Path, content: bytes) -> None:
    """The others are served, and what is wrong is said."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "good.gguf")
        (models / "bad.gguf").write_bytes(content)
        shelf = new()
        await shelf.look(at_once=True)
        assert names(shelf) == ["good"]
        assert shelf.default == models / "good.gguf"
        assert shelf.problems[models / "bad.gguf"].startswith("cannot ")
        assert not await shelf.look()  # not read again and again

    play(tmp_path, scene)


def test_a_configured_file_that_is_missing_is_the_problem(tmp_path: Path) -> None:
    """No other file takes its place as the default."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "other.gguf")
        shelf = new()
        await shelf.look(at_once=True)
        assert (names(shelf), shelf.default) == (["other"], None)
        assert "there is no such file" in shelf.problem
        hollow_model(tmp_path / "wanted.gguf")
        await shelf.look()
        assert await shelf.look()
        assert (shelf.default, shelf.problem) == (tmp_path / "wanted.gguf", "")

    play(tmp_path, scene, file=str(tmp_path / "wanted.gguf"))


def test_a_digest_that_is_not_the_configured_one_is_the_problem(tmp_path: Path) -> None:
    """Such a file is not served."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "a.gguf")
        shelf = new()
        await shelf.look(at_once=True)
        assert (shelf.files, shelf.default) == ({}, None)
        assert "[model] sha256 is 0000" in shelf.problem

    play(tmp_path, scene, sha256="0" * 64)


def test_a_configured_file_inside_the_folder_counts_once(tmp_path: Path) -> None:
    """Also when it is reached through a link."""

    async def scene(new: ToShelf, models: Path) -> None:
        hollow_model(models / "a.gguf")
        (tmp_path / "link.gguf").symlink_to(models / "a.gguf")
        shelf = new()
        await shelf.look(at_once=True)
        assert names(shelf) == ["link"]

    play(tmp_path, scene, file=str(tmp_path / "link.gguf"))
