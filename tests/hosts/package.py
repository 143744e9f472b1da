"""Other versions of the package that was built: the same under another number, or with something broken in it."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.hosts.host import run


def repack(package: Path, version: str, into: Path, change: Callable[[Path], None] = lambda _: None) -> Path:
    """A package of another version, whose files `change` may change."""
    name, _, architecture = package.stem.split("_")
    target = into / f"{name}_{version}_{architecture}.deb"
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "root"
        run("dpkg-deb", "--raw-extract", str(package), str(root))
        control = root / "DEBIAN/control"
        lines = control.read_text("utf-8").splitlines()
        control.write_text(
            "\n".join(f"Version: {version}" if line.startswith("Version:") else line for line in lines) + "\n"
        )
        change(root)
        run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", str(root), str(target))
    return target
