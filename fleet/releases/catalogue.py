"""What is published, what was, and what may be wished of nodes.

All of it stands in the TUF targets, so it changes when nodes see it, and not before: what is approved is a target, what
was yanked is in the field `yanked` beside them.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from tuf.api.metadata import TargetFile, Targets

from contract.release import Kind, Release, decode_release, reference_of, target_path
from contract.segments import sha256_of
from fleet.api.releases import Listed, NewRelease, Published, Shown, State
from fleet.errors import ConflictError, FolderError, NotFoundError, UsageError
from fleet.releases.bundle import Bundle, Chosen
from fleet.releases.making import fetch_bytes, make_release, says_the_same
from fleet.releases.objects import Objects
from fleet.releases.public_file import write_public
from fleet.releases.repository import Repository
from fleet.releases.segmenting import contents
from fleet.releases.uploads import Uploads

YANKED = "yanked"
# Actor, action, subject, detail. Called before a change, so that there is none without an entry.
Audit = Callable[[str, str, str, str], None]


class Custom(Struct, frozen=True, kw_only=True):
    """What a target says of its manifest: enough for a list."""

    kind: Kind
    bytes: int
    sha256: str
    published_ms: int


class YankedRelease(Custom, frozen=True, kw_only=True):
    """What is kept of a release that was yanked. `manifest`: its digest."""

    manifest: str
    reason: str


class Catalogue:
    """Publishes and yanks. Safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        repository: Repository,
        uploads: Uploads,
        audit: Audit,
        now_ms: Callable[[], int],
        num_bases: int,
    ) -> None:
        self._folder = folder
        self._repository = repository
        self._uploads = uploads
        self._audit = audit
        self._now_ms = now_ms
        self._num_bases = num_bases
        self._lock = threading.Lock()
        self._approved: dict[str, Kind] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what is approved."""
        targets = self._repository.files.targets().signed.targets
        self._approved = {reference_of(path): _custom(target).kind for path, target in targets.items()}

    def approves(self, reference: str, kind: Kind) -> bool:
        """Whether a release may be wished of a node that has not got it."""
        return self._approved.get(reference) == kind

    def publish(self, wanted: NewRelease, actor: str) -> Published:
        """Makes a release of an uploaded file. The same again changes nothing.

        Raises:
            ConflictError: something else has this name and version, or had it.
            NotFoundError: the file was not uploaded, or there is no such base.
            UsageError: the file or what is said of it cannot be a release.
            FolderError: it cannot be stored.
        """
        reference = f"{wanted.name}@{wanted.version}"
        with self._lock:
            draft = self._repository.draft()
            base_sha256 = self._base_sha256(draft, wanted.base)
            if reference in _yanked(draft):
                raise ConflictError(f"cannot publish {reference}: it was yanked; publish under another version")
            target = draft.targets.get(target_path(reference))
            if target is not None:
                release = self._release(reference, _digest(target))
                if not says_the_same(release, wanted, base_sha256):
                    raise ConflictError(
                        f"cannot publish {reference}: something else has this name and version, and a release never "
                        "changes; publish under another version"
                    )
                self._uploads.drop(wanted.sha256)
                return _published(release, [], False, self._repository.missing("targets") or 0)
            file = self._uploads.find(wanted.sha256)
            earlier = self._earlier(draft, wanted)
            release, manifest = make_release(wanted, file, Objects(self._folder), earlier, base_sha256)
            self._audit(actor, "release.publish", reference, f"{wanted.kind}, file {wanted.sha256}")
            missing = self._approve(release, manifest)
            self._uploads.drop(wanted.sha256)
            return _published(release, earlier, True, missing)

    def adopt(self, chosen: Chosen, bundle: Bundle, actor: str) -> bool:
        """Approves a release of a bundle here too. Returns whether it is new.

        Raises:
            ConflictError: something else has this name and version, or had it.
            UsageError: the bundle is damaged.
            FolderError: it cannot be stored.
        """
        release, manifest = chosen
        reference = release.reference
        with self._lock:
            draft = self._repository.draft()
            target = draft.targets.get(target_path(reference))
            if target is not None and _digest(target) == sha256_of(manifest):
                return False
            if target is not None or reference in _yanked(draft):
                raise ConflictError(f"cannot take {reference}: something else has, or had, this name and version here")
            objects = Objects(self._folder)
            for digest in {source.sha256 for segment in release.segments for source in segment.sources}:
                if not objects.has(digest):
                    objects.put(digest, bundle.object_of(digest))
            self._audit(actor, "release.adopt", reference, f"manifest {sha256_of(manifest)}")
            self._approve(release, manifest)
            return True

    def manifest_of(self, reference: str) -> tuple[Release, Path]:
        """An approved release, and the file of its manifest.

        Raises:
            NotFoundError: there is none.
        """
        target = self._repository.files.targets().signed.targets.get(target_path(reference))
        if target is None:
            raise _unknown(reference)
        return self._release(reference, _digest(target)), self._manifest_file(reference, _digest(target))

    def file_of(self, reference: str) -> tuple[int, Iterator[bytes]]:
        """The file of an approved release: its length, and its bytes piece by piece.

        Raises:
            NotFoundError: there is none.
        """
        release, _ = self.manifest_of(reference)
        return release.file.bytes, contents(release, Objects(self._folder))

    def yank(self, reference: str, reason: str, actor: str) -> int:
        """Takes a release back: it is not to be wished any more. Returns how many signatures that still needs.

        Raises:
            NotFoundError: there is no such release.
        """
        with self._lock:
            target = self._repository.draft().targets.get(target_path(reference))
            if target is None:
                raise _unknown(reference)
            kept = YankedRelease(**msgspec.structs.asdict(_custom(target)), manifest=_digest(target), reason=reason)

            def change(targets: Targets) -> None:
                del targets.targets[target_path(reference)]
                yanked = targets.unrecognized_fields.setdefault(YANKED, {})
                yanked[reference] = msgspec.to_builtins(kept)

            self._audit(actor, "release.yank", reference, reason)
            missing = self._repository.change_targets(change)
            self.refresh()
            return missing

    def all(self) -> list[Listed]:
        """All releases by name, the newest of a name first."""
        draft = self._repository.draft()
        found = []
        for path, target in draft.targets.items():
            state: State = "approved" if reference_of(path) in self._approved else "waiting"
            found.append(_listed(reference_of(path), _custom(target), state))
        found += [_listed(reference, kept, "yanked", kept.reason) for reference, kept in _yanked(draft).items()]
        return sorted(found, key=lambda one: (one.release.partition("@")[0], -one.published_ms))

    def show(self, reference: str) -> Shown:
        """All of a release.

        Raises:
            NotFoundError: there is none.
        """
        draft = self._repository.draft()
        listed = next((one for one in self.all() if one.release == reference), None)
        if listed is None:
            raise _unknown(reference)
        kept, target = _yanked(draft).get(reference), draft.targets.get(target_path(reference))
        release = self._release(reference, _digest(target) if target else kept.manifest if kept else "")
        manifest = msgspec.to_builtins(release)
        num_segments = len(manifest.pop("segments"))
        return Shown(listed, manifest, num_segments)

    def _approve(self, release: Release, manifest: bytes) -> int:
        path = target_path(release.reference)
        target = TargetFile.from_data(path, manifest, ["sha256"])
        custom = Custom(
            kind=release.kind, bytes=release.file.bytes, sha256=release.file.sha256, published_ms=self._now_ms()
        )
        target.unrecognized_fields["custom"] = msgspec.to_builtins(custom)
        file = self._manifest_file(release.reference, _digest(target))
        try:
            write_public(file, manifest, self._folder)
        except OSError as error:
            raise FolderError(f"cannot store {file}: {error.strerror}; check space and rights") from error

        def change(targets: Targets) -> None:
            targets.targets[path] = target

        missing = self._repository.change_targets(change)
        self.refresh()
        return missing

    def _earlier(self, draft: Targets, wanted: NewRelease) -> list[Release]:
        """The last few releases of a name and variant, the oldest first: nodes are likely to hold one."""
        same = []
        for path, target in draft.targets.items():
            name, _, version = reference_of(path).partition("@")
            custom = _custom(target)
            if (name, custom.kind, _variant(version)) == (wanted.name, wanted.kind, _variant(wanted.version)):
                same.append((custom.published_ms, f"{name}@{version}", _digest(target)))
        last = sorted(same)[-self._num_bases :] if self._num_bases else []
        return [self._release(reference, digest) for _, reference, digest in last]

    def _base_sha256(self, draft: Targets, base: str | None) -> str | None:
        """The digest of the model file that an adapter is said to be for."""
        if base is None or "@" not in base:
            return base
        target = draft.targets.get(target_path(base))
        if target is None:
            raise _unknown(base)
        custom = _custom(target)
        if custom.kind != "model":
            raise UsageError(f"cannot use the base {base}: it is an adapter")
        return custom.sha256

    def _release(self, reference: str, digest: str) -> Release:
        file = self._manifest_file(reference, digest)
        try:
            return decode_release(file.read_bytes())
        except (OSError, ValueError) as error:
            raise FolderError(f"cannot read {file}: {error}; restore it from a copy") from error

    def _manifest_file(self, reference: str, digest: str) -> Path:
        name, _, version = reference.partition("@")
        return self._folder / "targets" / name / f"{digest}.{version}.json"


def _published(release: Release, earlier: Iterable[Release], is_new: bool, missing: int) -> Published:
    return Published(
        release=release.reference, is_new=is_new, missing=missing, bytes=release.file.bytes,
        fetch_bytes=fetch_bytes(release), update_bytes={one.reference: fetch_bytes(release, one) for one in earlier},
    )  # fmt: skip


def _listed(reference: str, custom: Custom, state: State, reason: str | None = None) -> Listed:
    return Listed(
        release=reference, kind=custom.kind, state=state, bytes=custom.bytes, sha256=custom.sha256,
        published_ms=custom.published_ms, reason=reason,
    )  # fmt: skip


def _yanked(targets: Targets) -> dict[str, YankedRelease]:
    return msgspec.convert(targets.unrecognized_fields.get(YANKED, {}), dict[str, YankedRelease])


def _custom(target: TargetFile) -> Custom:
    return msgspec.convert(target.custom, Custom)


def _digest(target: TargetFile) -> str:
    digest: Any = target.hashes["sha256"]
    return str(digest)


def _variant(version: str) -> str:
    """What stands behind the `+` of a version."""
    return version.partition("+")[2]


def _unknown(reference: str) -> NotFoundError:
    return NotFoundError(f"cannot find the release {reference}: `fleet release ls` lists all")
