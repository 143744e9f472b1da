"""Operators and their tokens, and the keys of clients: who a request over HTTP is from.

What always holds:
- Only digests are stored. A secret has 256 random bits, so nothing slower than SHA-256 is needed.
- Digests are compared in constant time, and everything that is not good is refused with the same words.
- A token that is revoked or expired is refused at the next request.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable

import structlog
from sqlalchemy.exc import IntegrityError

from contract.ids import ID_RULE, is_id
from fleet.database import identities, operators
from fleet.database.store import Database
from fleet.errors import AccessError, ConflictError, NotFoundError, UsageError
from fleet.rights import check_free
from fleet.roles import Caller, Operator, Role

log = structlog.get_logger()

MAX_TOKEN_CHARS = 256


class Operators:
    """Gives tokens, takes them away, and recognises them. Safe to use from several threads and processes."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    def create(self, name: str, role: Role, ttl_ms: int | None, *, actor: str, replace: bool = False) -> str:
        """A new token. One that is revoked or expired leaves its name to the next; `replace` takes any.

        Raises:
            UsageError: `name` is no id, or the time is none.
            ConflictError: somebody has a good token with this name.
        """
        if not is_id(name):
            raise UsageError(f"cannot use name {name!r}: it must be {ID_RULE}")
        if ttl_ms is not None and ttl_ms <= 0:
            raise UsageError(f"cannot use a ttl of {ttl_ms / 1000:g} s: it must be over 0, or none")
        now_ms, secret = self._now_ms(), secrets.token_urlsafe(32)
        expires_ms = None if ttl_ms is None else now_ms + ttl_ms
        try:
            with self._database.write() as connection:
                if replace:
                    operators.drop_operator(connection, name)
                operators.drop_void(connection, name, now_ms)
                operators.add_operator(connection, name, role, _digest(secret), now_ms, expires_ms)
                identities.write_audit(connection, now_ms, actor, "operator.create", name, role)
        except IntegrityError:
            raise ConflictError(
                f"cannot create operator {name!r}: there is one; revoke it first, or choose another name"
            ) from None
        return f"{name}:{secret}"

    def revoke(self, name: str, *, actor: str) -> None:
        """Makes a token void.

        Raises:
            NotFoundError: there is no operator of this name with a token that is not revoked.
        """
        now_ms = self._now_ms()
        with self._database.write() as connection:
            if not operators.revoke_operator(connection, name, now_ms):
                raise NotFoundError(f"cannot revoke operator {name!r}: there is none; `fleet operator ls` lists them")
            identities.write_audit(connection, now_ms, actor, "operator.revoke", name)
        log.info("operator revoked", name=name)

    def list(self) -> list[Operator]:
        """All operators, also those whose token is void, by name."""
        with self._database.read() as connection:
            return operators.list_operators(connection)

    def create_key(self, client: str, *, actor: str) -> str:
        """A new key with which an application asks over HTTP as `client`; the one before it is void.

        Raises:
            NotFoundError: there is no such client.
            UsageError: it is the controller's own.
        """
        check_free(client)
        now_ms, secret = self._now_ms(), secrets.token_urlsafe(32)
        with self._database.write() as connection:
            identity = identities.find_identity(connection, client)
            if identity is None or identity.role != "client":
                raise NotFoundError(
                    f"cannot make a key for {client!r}: it is no client; `fleet client create` makes one"
                )
            identities.set_api_key(connection, client, _digest(secret))
            identities.write_audit(connection, now_ms, actor, "client.key", client)
        return f"{client}:{secret}"

    def authenticate(self, token: str) -> Caller:
        """Who has this token or key.

        Raises:
            AccessError: nobody, or not any more.
        """
        name, _, secret = token[:MAX_TOKEN_CHARS].partition(":")
        if is_id(name) and secret.isascii():
            given, now_ms = _digest(secret), self._now_ms()
            with self._database.read() as connection:
                operator = operators.find_operator(connection, name)
                key = identities.find_api_key(connection, name)
            if operator and hmac.compare_digest(given, operator[1]) and _is_good(operator[0], now_ms):
                return Caller(name, operator[0].role)
            if key and hmac.compare_digest(given, key):
                return Caller(name, "client")
        raise AccessError("cannot let you in: this token is unknown, revoked or expired; ask an admin for another")


def _is_good(operator: Operator, now_ms: int) -> bool:
    return operator.revoked_ms is None and (operator.expires_ms is None or operator.expires_ms > now_ms)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
