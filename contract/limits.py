"""Every limit of the wire contract, in one place. Schemas, checks and documents read them from here."""

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_INTEGER = 2**53 - 1  # what a number of JSON holds everywhere (RFC 7493)
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
MAX_SCHEMA_PROPERTIES = 128  # of one object: what optional ones cost grows with the square of their number
MAX_SCHEMA_REPEAT = 256
MAX_SCHEMA_ALIKE = 32  # alternatives of which the beginning of a text does not tell which one it is
MAX_SCHEMA_PATTERNS = 32
MAX_SCHEMA_PATTERN_CHARS = 256
MAX_SCHEMA_PATTERN_PLACES = 1000

DELTA_TOKENS = 8
DELTA_MS = 100

MAX_DOCUMENT_BYTES = 64 * 1024  # of a signed document: a node reads it before it knows who wrote it

# Of releases. A node keeps a segment, what it is made from and what comes out of it in memory at the same time.
MAX_SEGMENT_BYTES = 4 * 1024 * 1024
MAX_SEGMENTS = 32_768  # a file of 64 GiB in whole segments takes half of them
MAX_SEGMENT_NAME_CHARS = 320  # a metadata key has up to 256
MAX_SOURCES = 8
MAX_RELEASE_FILE_BYTES = 64 * 1024**3
MAX_HAVE_FILES = 32  # files of which a node tells its neighbours
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
MAX_CHAT_TEMPLATE_CHARS = 256 * 1024
MAX_GOLDEN_PROMPTS = 64
MAX_EXPECTATIONS = 16
MAX_EXPECTED_CHARS = 4096
MAX_PERPLEXITY_CHARS = 64 * 1024
