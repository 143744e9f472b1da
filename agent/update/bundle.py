"""Takes a bundle of releases that somebody brought: what `fleet bundle export` wrote, under the same signatures.

What is taken lies in the folder `bundle` beside the metadata, and is one more source, asked when the others fail. It is
there whole and checked, or not at all.
"""

import re
import shutil
import tarfile
import time
from pathlib import Path

from agent.errors import AgentError, NoSpaceError
from agent.update.checking import approve
from agent.update.delivery import BUNDLE
from agent.update.errand import Check, Link
from agent.update.errors import UpdateRefused
from agent.update.local_origin import LocalOrigin
from agent.update.reader import SourceError
from agent.update.record import Record
from contract.limits import MAX_MANIFEST_BYTES, MAX_SEGMENT_BYTES
from contract.release import object_path
from contract.segments import sha256_of

_NAME = re.compile(
    r"metadata/[0-9a-z.]{1,80}\.json|targets/[a-z0-9][a-z0-9._-]{0,62}/[0-9a-f]{64}\.[A-Za-z0-9._+-]{1,63}\.json"
    r"|objects/[0-9a-f]{2}/[0-9a-f]{64}"
)
_MANIFEST = re.compile(r"targets/([^/]+)/[0-9a-f]{64}\.(.+)\.json")


class BundleError(AgentError):
    """A bundle cannot be used."""


def take_bundle(file: Path, folder: Path, root_file: Path, now_ms: int) -> list[str]:
    """Takes it in place of an earlier one; returns the releases that it has, as `name@version`.

    Raises:
        BundleError: it is none, is damaged, or nobody that this node trusts has signed it.
        NoSpaceError: there is no room for it.
        StoreError: what is trusted cannot be noted.
    """
    fresh = folder / f".{BUNDLE}.{time.time_ns()}"
    record = Record(folder)
    try:
        names = _unpack(file, fresh)
        references = sorted(f"{found[1]}@{found[2]}" for name in names if (found := _MANIFEST.fullmatch(name)))
        taken = [
            reference for reference in references if _is_approved(reference, fresh, folder, root_file, now_ms, record)
        ]
        if not taken:
            raise BundleError(f"cannot use {file}: none of its releases is approved; export it anew")
        shutil.rmtree(folder / BUNDLE, ignore_errors=True)
        fresh.rename(folder / BUNDLE)
        return taken
    except SourceError as error:
        raise BundleError(f"cannot trust {file}: {error}; export it anew") from error
    except (OSError, tarfile.TarError) as error:
        raise BundleError(f"cannot read {file}: {error}; is it what `fleet bundle export` wrote?") from error
    finally:
        record.close()
        shutil.rmtree(fresh, ignore_errors=True)


def _unpack(file: Path, folder: Path) -> list[str]:
    """Writes the files that a bundle may have, and no others."""
    names = []
    with tarfile.open(file, "r:") as tar:
        if file.stat().st_size > shutil.disk_usage(folder.parent).free:
            raise NoSpaceError(f"cannot take {file}: its {file.stat().st_size} bytes do not fit on the disk; free some")
        for member in tar:
            limit = MAX_SEGMENT_BYTES if member.name.startswith("objects/") else MAX_MANIFEST_BYTES
            content = tar.extractfile(member) if member.isreg() and member.size <= limit else None
            if content is None or not _NAME.fullmatch(member.name):
                raise BundleError(f"cannot use {file}: it has {member.name[:80]!r}, which is no part of a bundle")
            place = folder / member.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.read())
            names.append(member.name)
    return names


def _is_approved(reference: str, fresh: Path, folder: Path, root_file: Path, now_ms: int, record: Record) -> bool:
    """Whether a release is approved; then all of it must be there."""
    origin = LocalOrigin(fresh)
    errand = Check(
        folder=str(folder), root_file=str(root_file), reference=reference, now_ms=now_ms, link=Link(sources=[])
    )
    try:
        release = approve(errand, origin, record)
    except UpdateRefused:
        return False
    for source in (source for segment in release.segments for source in segment.sources):
        if sha256_of(origin.read(object_path(source.sha256), source.bytes)) != source.sha256:
            raise BundleError(f"cannot use the bundle: its object {source.sha256} is damaged; copy it again")
    return True
