"""What the database knows of identities: rows in, rows out. Each function is a part of a transaction of its caller."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from contract.enrolment import RENEWAL_GRACE_MS, Role
from fleet.database.tables import audit, certificates, identities, spent, tokens


@dataclass(frozen=True)
class Identity:
    """A node or client."""

    id: str
    role: Role
    key_sha256: str | None
    revoked_ms: int | None


@dataclass(frozen=True)
class Quotas:
    """What a client may ask for; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True)
class Token:
    """A token as it is stored."""

    identity: Identity
    expires_ms: int
    used_ms: int | None


_IDENTITY = (identities.c.id, identities.c.role, identities.c.key_sha256, identities.c.revoked_ms)


def find_identity(connection: Connection, name: str) -> Identity | None:
    """The identity with this id."""
    row = connection.execute(select(*_IDENTITY).where(identities.c.id == name)).first()
    return Identity(*row) if row else None


def add_identity(connection: Connection, name: str, role: Role, now_ms: int) -> None:
    """Adds an identity that has not enrolled yet."""
    connection.execute(insert(identities).values(id=name, role=role, created_ms=now_ms))


def set_quotas(connection: Connection, name: str, quotas: Quotas) -> None:
    """Records what a client may ask for."""
    connection.execute(
        update(identities)
        .where(identities.c.id == name)
        .values(requests_per_minute=quotas.requests_per_minute, tokens_per_day=quotas.tokens_per_day)
    )


def set_key(connection: Connection, name: str, key_sha256: str) -> None:
    """Makes a key the only one of an identity, which is not revoked any more."""
    connection.execute(update(identities).where(identities.c.id == name).values(key_sha256=key_sha256, revoked_ms=None))


def set_api_key(connection: Connection, name: str, sha256: str) -> None:
    """Makes a key for HTTP the only one of a client, which is not revoked any more; its certificates still are."""
    new = {"api_key_sha256": sha256, "revoked_ms": None}
    connection.execute(update(identities).where(identities.c.id == name).values(new))


def find_api_key(connection: Connection, name: str) -> str | None:
    """The digest of a client's key for HTTP; None when there is none, or the client is revoked."""
    found = select(identities.c.api_key_sha256).where(identities.c.id == name, identities.c.revoked_ms.is_(None))
    return connection.execute(found).scalar()


def find_quotas(connection: Connection, name: str) -> Quotas:
    """What a client may ask for."""
    found = select(identities.c.requests_per_minute, identities.c.tokens_per_day).where(identities.c.id == name)
    row = connection.execute(found).first()
    return Quotas(*row) if row else Quotas()


def find_spent(connection: Connection, name: str, day: int) -> int:
    """The tokens that a client had on a day, counted from 1970."""
    found = select(spent.c.tokens).where(spent.c.identity == name, spent.c.day == day)
    return connection.execute(found).scalar() or 0


def add_spent(connection: Connection, name: str, day: int, num_tokens: int) -> None:
    """Counts tokens for a client; those of the days before are forgotten."""
    connection.execute(delete(spent).where(spent.c.identity == name, spent.c.day < day))
    today = update(spent).where(spent.c.identity == name, spent.c.day == day)
    if connection.execute(today.values(tokens=spent.c.tokens + num_tokens)).rowcount == 0:
        connection.execute(insert(spent).values(identity=name, day=day, tokens=num_tokens))


def add_token(connection: Connection, sha256: str, name: str, now_ms: int, expires_ms: int) -> None:
    """Adds a token for an identity."""
    values = {"sha256": sha256, "identity": name, "created_ms": now_ms, "expires_ms": expires_ms}
    connection.execute(insert(tokens).values(values))


def find_token(connection: Connection, sha256: str) -> Token | None:
    """The token with this digest."""
    row = connection.execute(
        select(*_IDENTITY, tokens.c.expires_ms, tokens.c.used_ms)
        .join_from(tokens, identities)
        .where(tokens.c.sha256 == sha256)
    ).first()
    return Token(Identity(*row[:4]), *row[4:]) if row else None


def use_token(connection: Connection, sha256: str, now_ms: int) -> bool:
    """Uses a token up.

    Returns:
        Whether it was there to be used. Of any number of attempts at once, one gets True: it is one statement.
    """
    used = connection.execute(
        update(tokens)
        .where(tokens.c.sha256 == sha256, tokens.c.used_ms.is_(None), tokens.c.expires_ms > now_ms)
        .values(used_ms=now_ms)
    )
    return used.rowcount == 1


def drop_tokens(connection: Connection, name: str) -> None:
    """Forgets the tokens of an identity."""
    connection.execute(delete(tokens).where(tokens.c.identity == name))


def add_certificate(connection: Connection, serial: int, name: str, issued_ms: int, expires_ms: int) -> None:
    """Records a certificate."""
    values = {"serial": f"{serial:x}", "identity": name, "issued_ms": issued_ms, "expires_ms": expires_ms}
    connection.execute(insert(certificates).values(values))


def is_revoked(connection: Connection, serial: int) -> bool:
    """Whether a certificate is revoked. One that is not known is."""
    row = connection.execute(select(certificates.c.revoked_ms).where(certificates.c.serial == f"{serial:x}")).first()
    return row is None or row.revoked_ms is not None


def revoke_certificates(connection: Connection, name: str, now_ms: int) -> int:
    """Revokes all certificates of an identity; returns how many were valid until now."""
    revoked = connection.execute(
        update(certificates)
        .where(certificates.c.identity == name, certificates.c.revoked_ms.is_(None))
        .values(revoked_ms=now_ms)
    )
    return revoked.rowcount


def revoke_identity(connection: Connection, name: str, now_ms: int) -> None:
    """Marks an identity as revoked, and forgets its key for HTTP."""
    gone = {"revoked_ms": now_ms, "api_key_sha256": None}
    connection.execute(update(identities).where(identities.c.id == name).values(gone))


def revoked_serials(connection: Connection, role: Role, now_ms: int) -> set[int]:
    """The serial numbers that a list of revoked certificates must hold: the expired need not be on it."""
    rows = connection.execute(
        select(certificates.c.serial)
        .join_from(certificates, identities)
        .where(identities.c.role == role, certificates.c.revoked_ms.is_not(None), certificates.c.expires_ms > now_ms)
    )
    return {int(row.serial, 16) for row in rows}


def forget_expired(connection: Connection, now_ms: int) -> None:
    """Forgets tokens and certificates that nothing can be done with any more."""
    connection.execute(delete(tokens).where(tokens.c.expires_ms < now_ms - RENEWAL_GRACE_MS))
    connection.execute(delete(certificates).where(certificates.c.expires_ms < now_ms - RENEWAL_GRACE_MS))


def write_audit(connection: Connection, now_ms: int, actor: str, action: str, subject: str, detail: str = "") -> None:
    """Writes down what was changed, and by whom."""
    values = {"at_ms": now_ms, "actor": actor, "action": action, "subject": subject, "detail": detail}
    connection.execute(insert(audit).values(values))


def write_audits(connection: Connection, now_ms: int, lines: list[tuple[str, str, str, str]]) -> None:
    """The same for many at once: actor, action, subject, detail."""
    names = ("actor", "action", "subject", "detail")
    if lines:
        connection.execute(insert(audit), [{"at_ms": now_ms, **dict(zip(names, line, strict=True))} for line in lines])
