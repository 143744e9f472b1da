"""The tables. A change here needs a migration; a test compares the two.

Times are ms since 1970 (UTC). Serial numbers have 160 bits, more than either database's integers, so they are text.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, MetaData, String, Table, Text

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

# Nodes and clients share one name space, so one table. `key_sha256` is the digest of the public key that the
# identity enrolled with, null until then; `api_key_sha256` that of a client's key for HTTP.
identities = Table(
    "identities",
    metadata,
    Column("id", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("key_sha256", String(64)),
    Column("revoked_ms", BigInteger),
    Column("requests_per_minute", Integer),
    Column("tokens_per_day", BigInteger),
    Column("api_key_sha256", String(64)),
)

# Tokens of language that a client had through the gateway, by days since 1970.
spent = Table(
    "spent",
    metadata,
    Column("identity", String(63), ForeignKey("identities.id"), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
)

# Who may use the HTTP API. A name has one token; only its digest is stored.
operators = Table(
    "operators",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
)

# Only digests: who reads the database learns no token.
tokens = Table(
    "tokens",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("identity", String(63), ForeignKey("identities.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("used_ms", BigInteger),
    Index(None, "identity"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("identity", String(63), ForeignKey("identities.id"), nullable=False),
    Column("issued_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
    Index(None, "identity"),
    Index(None, "expires_ms"),
)

# What was changed, by whom. What was refused stands in the log: strangers must not be able to fill the database.
audit = Table(
    "audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("detail", Text, nullable=False),
)
