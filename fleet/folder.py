"""The controller's folder: what `fleet init` makes and `fleet serve` reads.

    fleet.toml      the settings
    fleet.db        the database, unless the settings name another
    authority/      keys and certificates that sign: root (servers), nodes, clients
    controller/     the controller's own: https, mqtt (its log-in at the broker), gateway.pem (the one for asking
                    nodes), operator.token (an admin's, for commands on this machine), signing.key (desired state),
                    and during a change of that key signing.next.key
    broker/         all that mosquitto reads and writes, and nothing else
    keys/           keys that sign releases; those of the root, and if one likes of the targets, are to be carried away
    pending/        metadata of releases that waits for signatures
    uploads/        files on their way to being published
    releases/       what nodes and web servers read: metadata/, targets/ (manifests), objects/
    revision.floor  after `fleet restore`: revisions are above this number

Private files have mode 0600 in folders of mode 0700. Below releases/ anybody may read.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from contract.enrolment import Role
from contract.requests import Id
from fleet.cloud.settings import CloudSettings
from fleet.errors import FolderError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from fleet.authority import Authority

DEFAULT_PATH = Path("shoal-fleet")
ENV_PATH = "SHOAL_FLEET_DIR"
SETTINGS_FILE = "fleet.toml"
DATABASE_FILE = "fleet.db"
FLOOR_FILE = "revision.floor"
ROLES: tuple[Role, ...] = ("node", "client")

Port = Annotated[int, Meta(ge=1, le=65535)]
Days = Annotated[int, Meta(ge=1, le=3650)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Https(_Section, frozen=True, kw_only=True):
    """Where devices enrol."""

    host: str
    port: Port = 8443


class BrokerSection(_Section, frozen=True, kw_only=True):
    """The MQTT broker: a port for nodes, another for clients."""

    host: str
    nodes_port: Port = 8883
    clients_port: Port = 8884
    # What lets it read its files again; without, mosquitto is sent SIGHUP by the pid in its pid file.
    reload: list[str] = []


class DatabaseSection(_Section, frozen=True, kw_only=True):
    """SQLite in the folder, or what the URL names."""

    url: str = ""


class ReleasesSection(_Section, frozen=True, kw_only=True):
    """How long signatures on releases hold, and to how many earlier releases of a name differences are made.

    What the controller signs is renewed when half of its life is over, so it may be away for the other half.
    """

    root_days: Days = 365
    targets_days: Days = 365
    snapshot_days: Days = 90
    timestamp_days: Days = 4
    bases: Annotated[int, Meta(ge=0, le=7)] = 2


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`fleet.toml`."""

    fleet: Id
    https: Https
    broker: BrokerSection
    database: DatabaseSection = DatabaseSection()
    cloud: CloudSettings = CloudSettings()
    releases: ReleasesSection = ReleasesSection()


@dataclass(frozen=True)
class Folder:
    """A controller's folder and its settings."""

    path: Path
    settings: Settings

    @property
    def fleet(self) -> str:
        """The fleet's id."""
        return self.settings.fleet

    @property
    def url(self) -> str:
        """Where devices enrol."""
        host = self.settings.https.host
        return f"https://{f'[{host}]' if ':' in host else host}:{self.settings.https.port}"

    @property
    def database_url(self) -> str:
        """The database, as SQLAlchemy names it."""
        return self.settings.database.url or f"sqlite:///{self.path / DATABASE_FILE}"

    @property
    def revision_floor(self) -> int:
        """Revisions up to this one may have been given out, though the database does not know; 0 without a restore."""
        try:
            return int((self.path / FLOOR_FILE).read_text("ascii"))
        except FileNotFoundError:
            return 0

    @property
    def broker(self) -> Path:
        """What the broker reads and writes."""
        return self.path / "broker"

    @property
    def gateway_pem(self) -> Path:
        """Key and certificate with which the controller asks nodes."""
        return self.path / "controller" / "gateway.pem"

    @property
    def operator_token(self) -> Path:
        """The token of an admin, for commands on this machine."""
        return self.path / "controller" / "operator.token"

    @property
    def releases(self) -> Path:
        """What nodes and web servers read."""
        return self.path / "releases"

    @property
    def releases_root(self) -> str | None:
        """The newest TUF root; None for a controller that has not served since there are releases."""
        file = self.releases / "metadata" / "root.json"
        try:
            return file.read_text("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FolderError(f"cannot read {file}: {error.strerror}; run this as the folder's owner") from error

    def port(self, role: Role) -> int:
        """The broker's port for a role."""
        return self.settings.broker.nodes_port if role == "node" else self.settings.broker.clients_port

    @property
    def root_pem(self) -> str:
        """The root certificate, which devices and commands trust.

        Raises:
            FolderError: it cannot be read.
        """
        file = self.path / "authority" / "root.crt"
        try:
            return file.read_text("ascii")
        except OSError as error:
            raise FolderError(f"cannot read {file}: {error.strerror}; run this as the folder's owner") from error

    def authority(self, name: str) -> "Authority":
        """An authority: "root", "node" or "client".

        Raises:
            FolderError: its files cannot be read.
        """
        from fleet.authority import Authority  # commands that only need the settings do without cryptography

        stem = self.path / "authority" / name
        try:
            return Authority.from_pem(stem.with_suffix(".key").read_bytes(), stem.with_suffix(".crt").read_bytes())
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise FolderError(f"cannot read {stem}.key and .crt: {why}; run this as the folder's owner") from error

    def signing_keys(self) -> "list[Ed25519PrivateKey]":
        """The keys that sign desired state: one, and during a change of keys the next one too.

        Raises:
            FolderError: a key cannot be read.
        """
        files = [self.path / "controller" / name for name in ("signing.key", "signing.next.key")]
        return [_signing_key(file) for file in files[:1] + [file for file in files[1:] if file.exists()]]

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """The files of the controller's own certificate and key: "https" or "mqtt"."""
        stem = self.path / "controller" / name
        return stem.with_suffix(".crt"), stem.with_suffix(".key")


def open_folder(path: Path) -> Folder:
    """The folder that `fleet init` made.

    Raises:
        FolderError: there is none, or its settings cannot be used.
    """
    file = path / SETTINGS_FILE
    try:
        raw: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        return Folder(path.resolve(), msgspec.convert(raw, Settings))
    except FileNotFoundError:
        raise FolderError(
            f"cannot find {file}: make a controller with `fleet init {path} --fleet NAME --host HOST`, "
            "or name its folder with --dir"
        ) from None
    except OSError as error:
        raise FolderError(f"cannot read {file}: {error.strerror}; run this as the folder's owner") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot use {file}: {error}; repair it") from error


def write_private(path: Path, content: bytes) -> None:
    """Writes a new file that only its owner can read. Never overwrites.

    Raises:
        FileExistsError: it is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def replace_private(path: Path, content: bytes) -> None:
    """Replaces a file as a whole: a reader, and a power cut, sees the old or the new content."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    write_private(fresh, content)
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Has the names in a folder on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _signing_key(file: Path) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FolderError(f"cannot read {file}: {why}; run this as the folder's owner") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FolderError(f"cannot use {file}: it is no Ed25519 key; desired state is signed with one")
    return key
