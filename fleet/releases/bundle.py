"""Releases in one file, for where there is no network: a tar of the folder's own layout, under the same signatures.

Who unpacks it has a folder of releases that any web server can serve. It holds all metadata, and of the releases that
were chosen the manifests and every object, differences too.
"""

import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from contract.limits import MAX_MANIFEST_BYTES
from contract.release import BadRelease, Release, decode_release, object_path, target_path
from contract.segments import sha256_of
from fleet.errors import UsageError

BLOCK_BYTES = 512
PIECE_BYTES = 1 << 20
_URL = "bundle:///"


class Part(NamedTuple):
    """A file of a bundle: its bytes, or where they are."""

    name: str
    content: bytes | Path

    @property
    def num_bytes(self) -> int:
        """Its length."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


class Chosen(NamedTuple):
    """A release of a bundle, as its manifest says it."""

    release: Release
    manifest: bytes


def parts_of(folder: Path, releases: Sequence[tuple[Release, Path]], timestamp: bytes) -> list[Part]:
    """What goes into a bundle, of releases with their manifests' files."""
    metadata = [Part(f"metadata/{file.name}", file) for file in sorted((folder / "metadata").glob("*.json"))]
    parts = [part for part in metadata if part.name != "metadata/timestamp.json"]
    parts.append(Part("metadata/timestamp.json", timestamp))
    objects = sorted(
        {source.sha256 for release, _ in releases for segment in release.segments for source in segment.sources}
    )
    parts += [Part(str(file.relative_to(folder)), file) for _, file in releases]
    return parts + [Part(object_path(digest), folder / object_path(digest)) for digest in objects]


def num_bytes_of(parts: Sequence[Part]) -> int:
    """How long the bundle is."""
    return sum(len(_head(part)) + _padded(part.num_bytes) for part in parts) + 2 * BLOCK_BYTES


def write_bundle(parts: Sequence[Part]) -> Iterator[bytes]:
    """The bundle, piece by piece. The same parts make the same bytes."""
    for part in parts:
        yield _head(part)
        if isinstance(part.content, bytes):
            yield part.content
        else:
            with part.content.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    yield piece
        yield bytes(_padded(part.num_bytes) - part.num_bytes)
    yield bytes(2 * BLOCK_BYTES)


def _head(part: Part) -> bytes:
    head = tarfile.TarInfo(part.name)
    head.size, head.mode = part.num_bytes, 0o444
    return head.tobuf(tarfile.GNU_FORMAT)


def _padded(num_bytes: int) -> int:
    return num_bytes + -num_bytes % BLOCK_BYTES


class Bundle:
    """A bundle that somebody brought, for a `with` block. Nothing in it is believed but what is signed."""

    def __init__(self, file: Path) -> None:
        try:
            self._tar = tarfile.open(file, "r:")  # noqa: SIM115 - closed with the bundle
            members = (member for member in self._tar if member.isreg() and member.size <= MAX_MANIFEST_BYTES)
            self._members = {member.name: member for member in members}
        except (OSError, tarfile.TarError) as error:
            raise UsageError(f"cannot read the bundle: {error}; is it what `fleet bundle export` wrote?") from None

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *_error: object) -> None:
        self._tar.close()

    def read(self, name: str) -> bytes | None:
        """A file in it; None when it is not there."""
        member = self._members.get(name)
        file = self._tar.extractfile(member) if member else None
        return file.read() if file else None

    def releases(self, root: bytes) -> list[Chosen]:
        """The releases of which it has the manifests, approved by whom this root names.

        Raises:
            UsageError: the signatures are not good, or have expired.
        """
        with tempfile.TemporaryDirectory() as place:
            try:
                updater = Updater(place, f"{_URL}metadata", place, f"{_URL}targets", _Fetcher(self), bootstrap=root)
                updater.refresh()
                return [found for name in self._manifests() if (found := self._chosen(updater, name))]
            except (RepositoryError, DownloadHTTPError, BadRelease) as error:
                raise UsageError(
                    f"cannot trust the bundle: {error}; name the root of who exported it with --root, or export it anew"
                ) from None

    def object_of(self, digest: str) -> bytes:
        """An object.

        Raises:
            UsageError: it is not there, or has other bytes.
        """
        content = self.read(object_path(digest))
        if content is None or sha256_of(content) != digest:
            raise UsageError(f"cannot use the bundle: its object {digest} is missing or damaged; copy it again")
        return content

    def _manifests(self) -> list[str]:
        """References of all that could be a manifest."""
        found = []
        for name in self._members:
            folder, _, file = name.removeprefix("targets/").partition("/")
            version = file.partition(".")[2].removesuffix(".json")
            if name.startswith("targets/") and version:
                found.append(f"{folder}@{version}")
        return sorted(found)

    def _chosen(self, updater: Updater, reference: str) -> Chosen | None:
        target = updater.get_targetinfo(target_path(reference))
        if target is None:
            return None
        manifest = Path(updater.download_target(target)).read_bytes()
        return Chosen(decode_release(manifest), manifest)


class _Fetcher(FetcherInterface):
    """Gives TUF's client the files of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def _fetch(self, url: str) -> Iterator[bytes]:
        content = self._bundle.read(url.removeprefix(_URL))
        if content is None:
            raise DownloadHTTPError(f"{url} is not in the bundle", 404)
        return iter([content])
