"""What enrolment leaves on a device: three files in a folder of its own.

    identity.pem    the private key (P-256) and the certificate in one file, so that they are replaced together; 0600
    ca.pem          the fleet's root certificate
    identity.json   who this is, where the controller is, and how long the certificate lasts
    root.json       the TUF root that releases are trusted by, as it was at the enrolment

The daemon reads the last one alone; it needs no library for certificates.
"""

import os
import random
from pathlib import Path

import msgspec

from agent.errors import EnrolmentError
from contract.enrolment import Role, SigningKey
from contract.requests import Id

PEM_FILE = "identity.pem"
CA_FILE = "ca.pem"
RECORD_FILE = "identity.json"
RELEASES_ROOT_FILE = "root.json"

# Renewal at half of the certificate's life, give or take a tenth of it: a fleet that enrolled on one morning would
# otherwise renew on one morning for ever.
JITTER = 0.1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who this device is. Times are ms since 1970 on the controller's clock."""

    id: Id
    role: Role
    fleet: Id
    url: str
    broker_host: str
    broker_port: int
    issued_ms: int
    expires_ms: int
    signing_keys: list[SigningKey] = []  # whose signatures count on desired state

    def renewal_ms(self, random_number: float) -> float:
        """When to renew; `random_number` is from 0 to 1."""
        return self.issued_ms + (self.expires_ms - self.issued_ms) * (0.5 - JITTER + 2 * JITTER * random_number)


def identity_folder(state_dir: Path) -> Path:
    """Where a device keeps its identity."""
    return state_dir / "identity"


def load_identity(folder: Path) -> Identity | None:
    """The identity in a folder, or None when nobody enrolled.

    Raises:
        EnrolmentError: the record cannot be read.
    """
    file = folder / RECORD_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Identity)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise EnrolmentError(f"cannot read {file}: {error}; enrol again with a new token") from error


def store_identity(
    folder: Path, identity: Identity, pem: bytes, ca: bytes | None = None, releases_root: str | None = None
) -> None:
    """Writes an identity. A power cut leaves the old one or the new one, each whole.

    `ca` comes with an enrolment. The root of releases is taken then, and at a renewal only when there is none.

    Raises:
        EnrolmentError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if ca is not None:
            _replace(folder / CA_FILE, ca)
        if releases_root is not None and (ca is not None or not (folder / RELEASES_ROOT_FILE).exists()):
            _replace(folder / RELEASES_ROOT_FILE, releases_root.encode())
        _replace(folder / PEM_FILE, pem)
        # Last: with an old record beside a new certificate it is only renewed early.
        _replace(folder / RECORD_FILE, msgspec.json.encode(identity))
    except OSError as error:
        raise EnrolmentError(f"cannot write to {folder}: {error.strerror}; let this user write there") from error


def _replace(file: Path, content: bytes) -> None:
    fresh = file.with_name(f".{file.name}.{random.getrandbits(64):x}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        output.write(content)
        output.flush()
        os.fsync(descriptor)
    fresh.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
