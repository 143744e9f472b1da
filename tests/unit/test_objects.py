import resource
import stat
from pathlib import Path

import pytest

from contract.release import object_path
from contract.segments import sha256_of
from fleet.errors import FolderError, UsageError
from fleet.releases.objects import Objects
from fleet.releases.segmenting import store_file
from tests.fakes.noise import noise
from tests.fakes.releases import make_release
from tests.fakes.tiny_model import write_tiny_model


def files(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_object_is_a_file_that_anybody_reads_and_nobody_changes(tmp_path: Path) -> None:
    """Named by its digest; storing it again does nothing."""
    objects, data = Objects(tmp_path / "releases"), noise(1000)
    digest = sha256_of(data)
    assert not objects.has(digest)
    objects.put(digest, data)
    path = tmp_path / "releases" / object_path(digest)
    before = path.stat()
    objects.put(digest, data)
    assert objects.has(digest)
    assert objects.read(digest) == data
    assert files(tmp_path) == [path]
    assert stat.S_IMODE(before.st_mode) == 0o444
    assert path.stat().st_ino == before.st_ino


def test_an_object_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    """Neither under its name nor under another."""
    objects, data = Objects(tmp_path), noise(10_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(FolderError, match=r"cannot store the object .*: File too large; check space and rights"):
            objects.put(sha256_of(data), data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []
    with pytest.raises(FolderError, match="cannot read the object"):
        objects.read(sha256_of(data))


def test_publishing_again_makes_nothing_new(tmp_path: Path) -> None:
    """The same file gives the same release, also where it is known already, and lost objects are made again."""
    model = write_tiny_model(tmp_path / "tiny.gguf")
    objects = Objects(tmp_path / "releases")
    release = make_release(model, objects)
    stored = files(tmp_path / "releases")
    assert make_release(model, objects) == make_release(model, objects, [release]) == release
    assert files(tmp_path / "releases") == stored
    stored[0].unlink()
    assert make_release(model, objects, [release]) == release
    assert files(tmp_path / "releases") == stored


def test_a_damaged_object_of_an_earlier_release_is_named(tmp_path: Path) -> None:
    """No difference is made to what no node holds."""
    objects = Objects(tmp_path / "releases")
    one = make_release(write_tiny_model(tmp_path / "one.gguf"), objects)
    for path in files(tmp_path / "releases"):
        path.chmod(0o644)
        path.write_bytes(b"x")
    with pytest.raises(FolderError, match=r"cannot make the segment .*; restore the object from a copy"):
        store_file(write_tiny_model(tmp_path / "two.gguf", seed=2), objects, [one])


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """No file, an empty one, or one of another kind."""
    for content in (None, b"", b"something else"):
        path = tmp_path / "model.gguf"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"cannot (read|cut) .*model.gguf: "):
            store_file(path, Objects(tmp_path / "releases"))
