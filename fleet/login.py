"""Which controller a command talks to, and as whom.

On the controller's machine the folder says it: its settings, its root, and the token of the admin that `fleet init`
made. Elsewhere `fleet login` has stored it for this user, in a file that nobody else can read.
"""

import json
import os
import re
import ssl
import tomllib
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec

from fleet.errors import AccessError, FolderError, UsageError
from fleet.folder import DEFAULT_PATH, SETTINGS_FILE, Folder, open_folder, replace_private

URL_PATTERN = re.compile(r"https://[^/?#\s@]+\Z")
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Login:
    """Where a controller is, how it is known to be the right one, and a token."""

    url: str
    root_pem: str
    token: str = field(repr=False)


def local_folder(named: Path | None) -> Folder | None:
    """The controller's folder when it is on this machine: the one that was named, or `shoal-fleet` right here.

    Raises:
        FolderError: it is named and cannot be used.
    """
    if named is None and not (DEFAULT_PATH / SETTINGS_FILE).exists():
        return None
    return open_folder(named or DEFAULT_PATH)


def find_login(named: Path | None) -> Login | None:
    """From the folder if there is one, else what `fleet login` stored; None when there is neither.

    Raises:
        FolderError: the folder or the stored file cannot be used.
    """
    folder = local_folder(named)
    return _stored() if folder is None else of_folder(folder)


def need_login(named: Path | None) -> Login:
    """As `find_login`.

    Raises:
        UsageError: there is none.
    """
    login = find_login(named)
    if login is None:
        raise UsageError(
            "cannot tell which controller: log in with `fleet login URL --token … --ca-sha256 …`, or name its folder "
            "with --dir"
        )
    return login


def of_folder(folder: Folder) -> Login:
    """The login of the admin that a folder holds a token of."""
    try:
        token = folder.operator_token.read_text("utf-8").strip()
    except FileNotFoundError:
        raise AccessError(
            f"cannot find {folder.operator_token}: make one with `fleet operator create admin --role admin --save`"
        ) from None
    except OSError as error:
        raise FolderError(f"cannot read {folder.operator_token}: {error.strerror}; run this as its owner") from error
    return Login(folder.url, folder.root_pem, token)


def check_root(pem: str, digest: str, url: str) -> str:
    """The root certificate that a controller showed, when it has this SHA-256.

    Raises:
        AccessError: it has another, or is none.
    """
    try:
        found = sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError:
        raise AccessError(f"cannot log in at {url}: it is no controller of a fleet; look at the URL again") from None
    if found != digest:
        raise AccessError(
            f"cannot trust {url}: its root certificate has the digest {found}; if --ca-sha256 is whole, somebody is in "
            "between, or the controller was made anew"
        )
    return pem


def store(login: Login) -> Path:
    """Stores a login for this user; returns the file.

    Raises:
        FolderError: it cannot be written.
    """
    file = _file()
    # JSON's strings are strings of TOML as well.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in vars(login).items()]
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(file, "".join(lines).encode())
    except OSError as error:
        raise FolderError(f"cannot write {file}: {error.strerror}; make its folder writable") from error
    return file


def _stored() -> Login | None:
    file = _file()
    try:
        return msgspec.convert(tomllib.loads(file.read_text("utf-8")), Login)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FolderError(f"cannot read {file}: {error.strerror}; run this as its owner") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot use {file}: {error}; log in again with `fleet login`") from error


def _file() -> Path:
    home = os.environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path.home() / ".config") / "shoal" / "fleet.toml"
