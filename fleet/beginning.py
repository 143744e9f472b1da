"""Making a controller's folder. It appears whole or not at all: everything is written beside it, then renamed."""

import ipaddress
import re
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contract.ids import ID_RULE, is_id
from fleet.authority import SERVER_LIFE, Authority, KeyPair
from fleet.database.store import open_database
from fleet.errors import FolderError, UsageError
from fleet.folder import ROLES, SETTINGS_FILE, Folder, Settings, open_folder, sync_folder, write_private
from fleet.gateway_login import renew_gateway
from fleet.mosquitto import CONFIG_FILE, configuration
from fleet.operators import Operators
from fleet.releases.opening import begin_releases
from fleet.rights import CONTROLLER, access_list

TOML = """\
# Written by `fleet init`. The host stands in certificates too: another one needs a new folder.
fleet = "{fleet}"

# Where devices enrol.
[https]
host = "{host}"
port = {https_port}

[broker]
host = "{broker_host}"
nodes_port = {nodes_port}
clients_port = {clients_port}
# What lets the broker read its files again, when it is not mosquitto of the same user on this machine:
# reload = ["systemctl", "reload", "mosquitto"]

[database]
# Empty: SQLite in this folder.
url = {url}
"""

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")


def begin(path: Path, settings: Settings) -> Folder | None:
    """Makes a controller's folder.

    Returns:
        The new folder, or None when there is one already; then nothing is changed.

    Raises:
        UsageError: the fleet's id or the host cannot be one.
        FolderError: the place cannot be used.
    """
    if (path / SETTINGS_FILE).exists():
        open_folder(path)
        return None
    _check(settings)
    path = path.resolve()
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FolderError(f"cannot make a controller in {path}: something else is there; name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fresh.mkdir(mode=0o700)
        try:
            _fill(fresh, path, settings)
            for folder in (*(part for part in fresh.rglob("*") if part.is_dir()), fresh):
                sync_folder(folder)
            fresh.rename(path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    except OSError as error:
        raise FolderError(f"cannot make {path}: {error.strerror}; name a folder that can be written") from error
    return open_folder(path)


def _check(settings: Settings) -> None:
    if not is_id(settings.fleet):
        raise UsageError(f"cannot use fleet {settings.fleet!r}: an id is {ID_RULE}")
    host = settings.https.host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.match(host):
            raise UsageError(
                f"cannot use --host {host!r}: write the name or address at which devices reach this machine"
            ) from None
    ports = [settings.https.port, settings.broker.nodes_port, settings.broker.clients_port]
    if len(set(ports)) < len(ports):
        raise UsageError(f"cannot use ports {ports}: each must be another")


def _fill(fresh: Path, final: Path, settings: Settings) -> None:
    """Writes all files to `fresh`, for a folder that will be `final`."""
    for name in ("authority", "controller", "broker", "broker/data"):
        (fresh / name).mkdir(mode=0o700)
    now = datetime.now(UTC)
    root = Authority.new(f"Shoal {settings.fleet}", now)
    signers = {role: Authority.new(f"Shoal {settings.fleet} {role}s", now) for role in ROLES}
    _write(fresh / "authority/root", root)
    for role, signer in signers.items():
        _write(fresh / "authority" / role, signer)
    _write(fresh / "controller/https", root.server(settings.https.host, now))
    _write(fresh / "controller/mqtt", signers["node"].login(CONTROLLER, now, SERVER_LIFE))
    signing = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(fresh / "controller/signing.key", signing)

    broker = fresh / "broker"
    _write(broker / "server", root.server(settings.broker.host, now))
    for role, signer in signers.items():
        write_private(broker / f"{role}.crt", signer.certificate_pem)
        write_private(broker / f"{role}.crl", signer.revocation_list([], now, None))
        write_private(broker / f"{role}.acl", access_list(role, settings.fleet).encode())
    write_private(broker / CONFIG_FILE, configuration(final / "broker", settings.broker).encode())

    begin_releases(fresh, settings.releases, lambda: int(now.timestamp() * 1000))
    _record(Folder(fresh, settings), now)
    write_private(fresh / SETTINGS_FILE, _toml(settings).encode())
    for file in fresh.glob("fleet.db*"):
        file.chmod(0o600)


def _record(folder: Folder, now: datetime) -> None:
    """Makes the database, with a first admin and the gateway in it."""
    now_ms = int(now.timestamp() * 1000)
    database = open_database(folder.database_url)
    try:
        # A database that was another controller's before may know the name; its token is void from now on.
        token = Operators(database, lambda: now_ms).create("admin", "admin", None, actor="init", replace=True)
        write_private(folder.operator_token, token.encode())
        renew_gateway(folder, database, now_ms)
    finally:
        database.close()


def _write(stem: Path, pair: KeyPair) -> None:
    write_private(stem.with_suffix(".key"), pair.key_pem)
    write_private(stem.with_suffix(".crt"), pair.certificate_pem)


def _toml(settings: Settings) -> str:
    return TOML.format(
        fleet=settings.fleet,
        host=settings.https.host,
        https_port=settings.https.port,
        broker_host=settings.broker.host,
        nodes_port=settings.broker.nodes_port,
        clients_port=settings.broker.clients_port,
        url=_quoted(settings.database.url),
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
