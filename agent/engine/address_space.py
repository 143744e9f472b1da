"""How much address space an engine may take. Pure arithmetic, in bytes.

The limit stops what runs away before it takes the device's memory; it is no account of what an engine needs. Address
space is cheap and goes to much that is never touched: a mapped file, thread stacks of 8 MiB, allocator arenas of 64 MiB
for each thread. So the limit is generous: measured, engines take a third of it or less.
"""

GIB = 2**30
MIB = 2**20

BASE_BYTES = 3 * GIB  # Python, libraries, compute buffers, grammars, prompts
THREAD_BYTES = 80 * MIB  # stack and arena
COPIES = 3  # of the weights: the mapped file, repacked ones, what an adapter replaces
KV_COPIES = 2  # the memory itself, and attention scores, which grow with it


def address_space_bytes(*, weights_bytes: int, kv_bytes: int, threads: int) -> int:
    """The limit for an engine with this model and as many threads."""
    return BASE_BYTES + COPIES * weights_bytes + KV_COPIES * kv_bytes + threads * THREAD_BYTES
