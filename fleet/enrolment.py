"""Identities: tokens, enrolment, renewal, revocation.

What always holds, also when the process is killed at any point:
- A token gives one certificate at most. It is used up in the transaction that records the certificate, and the
  certificate leaves the process after that transaction.
- An identity has one key. Enrolling again, with a new token, revokes what it had.
- Who is revoked stands in the database first. The broker's list follows it, at the latest when `sync_lists` runs next.
"""

import hashlib
import secrets
from collections.abc import Callable
from datetime import timedelta

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from contract.enrolment import CERTIFICATE_LIFE_MS, RENEWAL_GRACE_MS, Issued, Role, token_id
from contract.ids import ID_RULE, is_id
from fleet.api.identities import MAX_TTL_MS, Client, OpenToken
from fleet.authority import utc
from fleet.database import identities as rows
from fleet.database.identities import Identity, Quotas, Token
from fleet.database.store import Database
from fleet.errors import ConflictError, EnrolmentError, NotFoundError, UsageError
from fleet.folder import ROLES, Folder
from fleet.revocation import evict, write_list
from fleet.rights import check_free
from fleet.signing_request import check_request, key_digest

log = structlog.get_logger()


class Enrolment:
    """Gives identities and takes them away. Safe to use from several threads and processes."""

    def __init__(self, folder: Folder, database: Database, now_ms: Callable[[], int]) -> None:
        self._folder = folder
        self._database = database
        self._now_ms = now_ms
        self._authorities = {role: folder.authority(role) for role in ROLES}
        self._signing_keys = [key.public_key().public_bytes_raw().hex() for key in folder.signing_keys()]

    def create_token(self, role: Role, name: str, ttl_ms: int, *, quotas: Quotas | None = None, actor: str) -> str:
        """A token with which a device or client can enrol as `name` once.

        Raises:
            UsageError: `name` is no id, or the time is too long.
            ConflictError: `name` is the other role's.
        """
        if not is_id(name):
            raise UsageError(f"cannot use id {name!r}: an id is {ID_RULE}")
        check_free(name)
        if not 0 < ttl_ms <= MAX_TTL_MS:
            raise UsageError(f"cannot use a ttl of {ttl_ms / 1000:g} s: a token lives for up to 30 days")
        now_ms, secret = self._now_ms(), secrets.token_urlsafe(32)
        with self._database.write() as connection:
            known = rows.find_identity(connection, name)
            if known is None:
                rows.add_identity(connection, name, role, now_ms)
            elif known.role != role:
                raise ConflictError(f"cannot use id {name!r} for a {role}: it is a {known.role}; choose another")
            if quotas is not None:
                rows.set_quotas(connection, name, quotas)
            rows.add_token(connection, _digest(secret), name, now_ms, now_ms + ttl_ms)
            rows.write_audit(connection, now_ms, actor, "token.create", name, f"{role}, {ttl_ms / 1000:g} s")
        return f"{name}:{secret}"

    def open_tokens(self) -> list[OpenToken]:
        """Tokens that can be used, by whom they are for."""
        with self._database.read() as connection:
            return rows.open_tokens(connection, self._now_ms())

    def clients(self) -> list[Client]:
        """All clients, by id."""
        with self._database.read() as connection:
            return rows.list_clients(connection)

    def enrol(self, token: str, csr: str) -> Issued:
        """Exchanges a token for a certificate.

        Raises:
            EnrolmentError: the token or the request is not good; the token can still be used.
        """
        name = token_id(token)
        digest = _digest(token.rpartition(":")[2])
        now_ms = self._now_ms()
        with self._database.read() as connection:
            stored = rows.find_token(connection, digest)
        identity = _check_token(stored, name, now_ms)
        key = check_request(csr, name)
        certificate, issued = self._sign(identity, key, now_ms)
        with self._database.write() as connection:
            if not rows.use_token(connection, digest, now_ms):
                _check_token(rows.find_token(connection, digest), name, now_ms)
                raise _unknown_token()  # revoked in between
            num_revoked = rows.revoke_certificates(connection, name, now_ms)
            rows.set_key(connection, name, key_digest(key))
            rows.add_certificate(connection, certificate.serial_number, name, now_ms, issued.expires_ms)
            rows.write_audit(connection, now_ms, name, "enrol", name, f"certificate {certificate.serial_number:x}")
        if num_revoked:
            self.sync_lists()
        log.info("enrolled", id=name, role=identity.role, again=bool(num_revoked))
        return issued

    def renew(self, presented: x509.Certificate) -> Issued:
        """A new certificate for the key of one that TLS has verified, but for its dates.

        Raises:
            EnrolmentError: the identity is revoked or has another key by now, or the certificate is too old.
        """
        name = str(presented.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        key, now_ms = presented.public_key(), self._now_ms()
        with self._database.write() as connection:
            identity = rows.find_identity(connection, name)
            if identity is None or not isinstance(key, ec.EllipticCurvePublicKey):
                raise EnrolmentError("not_enrolled", f"cannot renew {name!r}: it never enrolled here")
            revoked = rows.is_revoked(connection, presented.serial_number)
            if identity.revoked_ms is not None or revoked or identity.key_sha256 != key_digest(key):
                raise EnrolmentError("revoked", f"cannot renew {name!r}: it is revoked; enrol it with a new token")
            if utc(now_ms - RENEWAL_GRACE_MS) > presented.not_valid_after_utc:
                raise EnrolmentError(
                    "expired", f"cannot renew {name!r}: its certificate expired over 30 days ago; use a new token"
                )
            certificate, issued = self._sign(identity, key, now_ms)
            rows.add_certificate(connection, certificate.serial_number, name, now_ms, issued.expires_ms)
            rows.write_audit(connection, now_ms, name, "renew", name, f"certificate {certificate.serial_number:x}")
        log.info("renewed", id=name, role=identity.role)
        return issued

    def revoke(self, name: str, *, actor: str) -> bool:
        """Takes an identity away: no renewal, no connection, no token.

        Returns:
            Whether the broker was told; if not, it hears it when it starts.

        Raises:
            NotFoundError: there is no such identity.
            FolderError, BrokerError: it is revoked, but the broker could not be told.
        """
        check_free(name)
        now_ms = self._now_ms()
        with self._database.write() as connection:
            identity = rows.find_identity(connection, name)
            if identity is None:
                raise NotFoundError(f"cannot revoke {name!r}: there is no such node or client")
            rows.revoke_identity(connection, name, now_ms)
            rows.revoke_certificates(connection, name, now_ms)
            rows.drop_tokens(connection, name)
            rows.write_audit(connection, now_ms, actor, "revoke", name)
        log.info("revoked", id=name, role=identity.role)
        if not self.sync_lists(fresh=True):
            return False
        # After the list, so that it cannot come back.
        evict(self._folder, identity.role, self._authorities[identity.role], name, utc(now_ms))
        return True

    def sync_lists(self, *, fresh: bool = False) -> bool:
        """Brings the broker's lists of revoked certificates up to date.

        `fresh` writes them also when nobody is new on them, because lists expire.

        Returns:
            Whether there is a broker that knows them now.
        """
        told = True
        for role, authority in self._authorities.items():

            def serials(role: Role = role) -> set[int]:
                with self._database.read() as connection:
                    return rows.revoked_serials(connection, role, self._now_ms())

            told &= write_list(self._folder, role, authority, serials, utc(self._now_ms()), fresh=fresh)
        return told

    def forget_expired(self) -> None:
        """Forgets tokens and certificates that nothing can be done with any more."""
        with self._database.write() as connection:
            rows.forget_expired(connection, self._now_ms())

    def _sign(self, identity: Identity, key: ec.EllipticCurvePublicKey, now_ms: int) -> tuple[x509.Certificate, Issued]:
        life = timedelta(milliseconds=CERTIFICATE_LIFE_MS)
        certificate = self._authorities[identity.role].certify(identity.id, key, utc(now_ms), life)
        return certificate, Issued(
            id=identity.id,
            role=identity.role,
            fleet=self._folder.fleet,
            certificate=certificate.public_bytes(Encoding.PEM).decode(),
            broker_host=self._folder.settings.broker.host,
            broker_port=self._folder.port(identity.role),
            issued_ms=now_ms,
            expires_ms=now_ms + CERTIFICATE_LIFE_MS,
            signing_keys=self._signing_keys if identity.role == "node" else [],
            releases_root=self._folder.releases_root if identity.role == "node" else None,
        )


def _digest(secret: str) -> str:
    """What is stored of a token. It has 256 random bits, so nothing slower than SHA-256 is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _check_token(token: Token | None, name: str, now_ms: int) -> Identity:
    if token is None or token.identity.id != name:
        raise _unknown_token()
    if token.used_ms is not None:
        raise EnrolmentError("token_used", f"cannot enrol {name!r}: the token was used before; create another")
    if token.expires_ms <= now_ms:
        raise EnrolmentError("token_expired", f"cannot enrol {name!r}: the token has expired; create another")
    return token.identity


def _unknown_token() -> EnrolmentError:
    return EnrolmentError("token_unknown", "cannot enrol: there is no such token; copy it whole, or create another")
