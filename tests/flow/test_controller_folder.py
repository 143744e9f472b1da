"""`fleet init`: the controller's folder."""

import os
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fleet.beginning import begin
from fleet.database.store import open_database
from fleet.database.tables import metadata
from fleet.errors import FolderError, UsageError
from fleet.folder import DatabaseSection, open_folder
from fleet.mosquitto import complete_rights
from tests.fakes.controller import settings


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_private(tmp_path: Path) -> None:
    """No file of the controller, least of all a key, can be read by another user, whatever the umask is.

    But for releases, which a web server shall read, and nobody changes.
    """
    before = os.umask(0)
    try:
        begin(tmp_path / "ctl", settings())
    finally:
        os.umask(before)
    published = set((tmp_path / "ctl/releases").rglob("*")) | {tmp_path / "ctl/releases"}
    made = {tmp_path / "ctl", *(tmp_path / "ctl").rglob("*")} - published
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_file()} == {"0o600"}
    assert {oct(path.stat().st_mode & 0o777) for path in made if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in published} == {"0o755", "0o444"}


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    """Keys that devices trust are never made again, also with other options."""
    made = begin(tmp_path / "ctl", settings())
    assert made is not None
    before = contents(tmp_path / "ctl")
    assert begin(tmp_path / "ctl", settings()) is None
    assert contents(tmp_path / "ctl") == before
    assert open_folder(tmp_path / "ctl") == made


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A folder with something else in it is left alone."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="something else is there"):
        begin(tmp_path, settings())
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_it_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    """When its last step fails, nothing is left behind, and the next attempt works."""
    broken = msgspec.structs.replace(
        settings(), database=DatabaseSection(url=f"postgresql://nobody@/none?host={tmp_path}")
    )
    with pytest.raises(FolderError, match="cannot use the database"):
        begin(tmp_path / "ctl", broken)
    assert list(tmp_path.iterdir()) == []
    assert begin(tmp_path / "ctl", settings()) is not None


@pytest.mark.parametrize("host", ["", "two words", "-dash", "a\nb", "mqtt://x"])
def test_a_host_that_cannot_be_one_is_refused(tmp_path: Path, host: str) -> None:
    """It goes into certificates and settings, so it is checked before anything is made."""
    chosen = settings()
    with pytest.raises(UsageError, match="cannot use --host"):
        begin(tmp_path / "ctl", msgspec.structs.replace(chosen, https=msgspec.structs.replace(chosen.https, host=host)))
    assert list(tmp_path.iterdir()) == []


def test_a_password_of_the_database_is_not_shown(tmp_path: Path) -> None:
    """An address that does not work is named without its password."""
    with pytest.raises(FolderError) as refused:
        open_database(f"postgresql://me:s3cret@/none?host={tmp_path}")
    assert "s3cret" not in str(refused.value)


def test_the_migrations_make_the_tables(database_url: str) -> None:
    """Both databases, brought up by migrations alone, have exactly the tables that the code uses."""
    for _ in range(2):  # the second time there is nothing to do
        open_database(database_url).close()
    database = open_database(database_url)
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    database.close()
    assert differences == []


def test_rights_of_an_older_folder_are_completed(tmp_path: Path) -> None:
    """What a newer version grants is added where it belongs, what an operator wrote stays, and once is enough."""
    folder = begin(tmp_path / "ctl", settings())
    assert folder is not None
    file = folder.broker / "node.acl"
    new = file.read_text()
    added = "\nuser ann\ntopic read #\n"
    older = [line for line in new.splitlines() if "quota/" not in line and "readwrite shoal/v1/home/node" not in line]
    file.write_text("\n".join(older) + "\n" + added)
    assert complete_rights(folder)
    assert file.read_text() == new + added
    assert file.stat().st_mode & 0o777 == 0o600
    assert not complete_rights(folder)
