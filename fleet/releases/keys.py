"""Key files of those who sign releases: Ed25519, PKCS #8 in PEM form, one key in a file.

Keys of `snapshot` and `timestamp` stay with the controller. Those of `root`, and of `targets` where releases are to be
approved elsewhere, are carried away: then they sign there, with `fleet release sign`.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from fleet.api.trust import Role
from fleet.errors import FolderError, UsageError
from fleet.folder import replace_private

SUFFIX = ".key"


class KeyRing:
    """The folder of key files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, role: Role) -> SSlibKey:
        """Makes a key, stores it, and returns its public half."""
        return make_key(self.folder, role).public_key

    def signers(self) -> dict[str, CryptoSigner]:
        """Those that are here, by the id of their key.

        Raises:
            FolderError: a file cannot be read or is no key.
        """
        try:
            return {
                signer.public_key.keyid: signer
                for signer in (read_signer(file) for file in sorted(self.folder.glob(f"*{SUFFIX}")))
            }
        except UsageError as error:
            raise FolderError(str(error)) from error


def make_key(folder: Path, role: Role) -> CryptoSigner:
    """Makes a key and stores it as `role-XXXXXXXX.key`, XXXXXXXX being how its id begins."""
    private = Ed25519PrivateKey.generate()
    signer = CryptoSigner(private)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_private(folder / f"{role}-{signer.public_key.keyid[:8]}{SUFFIX}", pem)
    return signer


def read_signer(file: Path) -> CryptoSigner:
    """The key in a file, which signs.

    Raises:
        UsageError: it cannot be read or is no such key.
    """
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"cannot read the key {file}: {why}; name a key file as `fleet init` makes them") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"cannot use the key {file}: it is no Ed25519 key; name one that `fleet init` made")
    return CryptoSigner(key)


def public_pem(key: SSlibKey) -> str:
    """A public key, to be carried to the controller."""
    text: str = key.keyval["public"]
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read_public(pem: str) -> SSlibKey:
    """The key that `public_pem` gave.

    Raises:
        UsageError: it is none.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(pem.encode()))
    except ValueError as error:
        raise UsageError(f"cannot read the public key: {error}; give what `fleet release keys new` printed") from None
