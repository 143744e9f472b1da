"""Every limit of the wire contract, in one place. Schemas, checks and documents read them from here."""

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_TOPIC_BYTES = 512

MAX_MESSAGES = 256
MAX_INPUTS = 256
MAX_TOKENS = 131_072
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 256
MAX_LOGIT_BIAS = 1024
MAX_TTL_MS = 24 * 3600 * 1000
DEFAULT_TTL_MS = 60_000

# A schema becomes a grammar. 300 levels of nesting made 377 kB of grammar (docs/adr/0004), and a
# large repetition count is written out once per repetition, so both are capped before conversion.
MAX_SCHEMA_BYTES = 16 * 1024
MAX_SCHEMA_DEPTH = 24
MAX_SCHEMA_NODES = 1000
MAX_SCHEMA_REPEAT = 256
MAX_SCHEMA_NESTED_REPEAT = 48  # `((a?){8}){8}` already costs 2 s a token
MAX_SCHEMA_PATTERN_CHARS = 256

DELTA_TOKENS = 8
DELTA_MS = 100
