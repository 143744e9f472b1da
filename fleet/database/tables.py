"""The tables. A change here needs a migration; a test compares the two.

Times are ms since 1970 (UTC), by the controller's clock. Serial numbers have 160 bits, more than either database's
integers, so they are text.
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

# What a node said last, as JSON in the form of `contract`.
nodes = Table(
    "nodes",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("status", Text),
    Column("card", Text),
    Column("reported", Text),
    Column("reported_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)

# Which batches of telemetry came, written together with their rows; and the last row of `sys`.
series = Table(
    "series",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("series", Text, nullable=False),
    Column("last", Text),
)

# Rows as they came. One index is for a node, the other, to which is only appended, for a time.
telemetry = Table(
    "telemetry",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("node", String(63), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("row", Text, nullable=False),
    Index(None, "node", "kind", "at_ms"),
    Index(None, "kind", "at_ms"),
)

# Rows of an hour folded together. `model` and `adapter` are empty where they say nothing.
hourly = Table(
    "hourly",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("at_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("model", String(128), primary_key=True),
    Column("adapter", String(128), primary_key=True),
    Column("row", Text, nullable=False),
    Index(None, "kind", "at_ms"),
)

events = Table(
    "events",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("eid", String(64), primary_key=True),
    Column("kind", String(63), nullable=False),
    Column("name", String(64), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("event", Text, nullable=False),
    Index(None, "node", "at_ms"),
    Index(None, "at_ms"),
)

# A wish: the text that is signed. The key makes that a revision of a node cannot be given out twice.
desired = Table(
    "desired",
    metadata,
    Column("node", String(63), primary_key=True),
    Column("rev", BigInteger, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)

# A saved query, and the policy for those who fit. Of a deleted one the revision stays: its nodes remember it.
node_groups = Table(
    "node_groups",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("query", Text),
    Column("rev", BigInteger, nullable=False),
    Column("policy", Text),
)

# What was spent on clouds in a day, by whom: the fleet, a node, a client (fleet/cloud/ledger.py). What is under way is
# counted with the most that it can take. Money in billionths of the currency.
cloud_spent = Table(
    "cloud_spent",
    metadata,
    Column("spender", String(72), primary_key=True),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("tokens", BigInteger, nullable=False),
    Column("nano", BigInteger, nullable=False),
)

# What left for a provider: written before it leaves, completed when the answer is there. Of texts only the digest.
cloud_audit = Table(
    "cloud_audit",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("node", String(63), nullable=False),
    Column("client", String(63), nullable=False),
    Column("request", String(63), nullable=False),
    Column("why", String(16), nullable=False),
    Column("privacy", String(8), nullable=False),
    Column("provider", String(63), nullable=False),
    Column("model", String(200), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("nano", BigInteger),
    Index(None, "at_ms"),
    Index(None, "node", "at_ms"),
)

# A rollout: the plan and the state as JSON, the latter without its nodes, which have rows of their own: a step changes
# few of them.
rollouts = Table(
    "rollouts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("plan", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("counts", Text, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)

rollout_nodes = Table(
    "rollout_nodes",
    metadata,
    Column("number", Integer, ForeignKey("rollouts.number"), primary_key=True),
    Column("node", String(63), primary_key=True),
    Column("state", Text, nullable=False),
)
