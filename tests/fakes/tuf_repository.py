"""A folder of releases whose metadata can be made wrong in any way, with keys in memory."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from contract.release import Release, encode_release

ROLES = ("root", "targets", "snapshot", "timestamp")


class TufRepository:
    """Consistent snapshots, two root keys of which both must sign, one key for each other role."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        self.root = Root(expires=expires, consistent_snapshot=True)
        self.targets = Targets(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.timestamp = Timestamp(expires=expires)
        self.signers = {role: [self.new_key(role) for _ in range(2 if role == "root" else 1)] for role in ROLES}
        self.root.roles["root"].threshold = 2
        (folder / "metadata").mkdir(parents=True)
        self.publish_root()
        self.publish(bump=False)

    @property
    def first_root(self) -> bytes:
        """What a node begins with."""
        return (self.folder / "metadata/1.root.json").read_bytes()

    def new_key(self, role: str) -> CryptoSigner:
        """A key that may sign for a role once the root says so."""
        signer = CryptoSigner.generate_ed25519()
        self.root.add_key(signer.public_key, role)
        return signer

    def approve(self, release: Release, manifest: bytes | None = None, **custom: Any) -> None:
        """Has the release among the targets, from the next `publish` on."""
        data = manifest or encode_release(release)
        path = f"{release.name}/{release.version}.json"
        target = TargetFile.from_data(path, data, ["sha256"])
        target.unrecognized_fields["custom"] = {"kind": release.kind} | custom
        self.targets.targets[path] = target
        file = self.folder / f"targets/{release.name}/{hashlib.sha256(data).hexdigest()}.{release.version}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def publish_root(self) -> None:
        """Writes the root in its version."""
        data = self.signed("root", self.root)
        (self.folder / f"metadata/{self.root.version}.root.json").write_bytes(data)

    def publish(self, *, bump: bool = True) -> None:
        """Writes targets, snapshot and timestamp, each in its next version."""
        if bump:
            for signed in (self.targets, self.snapshot, self.timestamp):
                signed.version += 1
        self.snapshot.meta["targets.json"] = MetaFile(self.targets.version)
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.write(f"{self.targets.version}.targets.json", self.signed("targets", self.targets))
        self.write(f"{self.snapshot.version}.snapshot.json", self.signed("snapshot", self.snapshot))
        self.write("timestamp.json", self.signed("timestamp", self.timestamp))

    def signed(self, role: str, signed: Any) -> bytes:
        """Metadata as it is served, signed by all that sign for the role."""
        metadata: Metadata[Any] = Metadata(signed)
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Serves bytes as metadata."""
        (self.folder / "metadata" / name).write_bytes(data)
