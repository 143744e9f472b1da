"""Whether one more engine fits in memory, and which idle ones have to go for it. Pure arithmetic, in bytes.

Too little memory is not an error but a slow collapse: a mapped model runs at 72 tokens a second with enough of it, at 8
with a third less, and is killed with half. So it is reckoned before loading.
"""

from collections.abc import Sequence

from msgspec import Struct

from agent.errors import AgentError

MIB = 2**20
# Of what the machine has left, engines may take this much: the rest is for what others need while an answer runs.
SHARE_PERCENT = 80
# One part in so many of the budget is for the key-value memory of one model's requests.
KV_SHARE = 6
MAX_PARALLEL = 16


class NoRoomError(AgentError):
    """A model does not fit, whatever is unloaded."""


class Need(Struct, frozen=True):
    """What one engine takes: the file, the key-value memory of all its sequences, and everything else."""

    weights_bytes: int
    kv_bytes: int
    margin_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.margin_bytes


class Loaded(Struct, frozen=True):
    """An engine that runs. `idle_s` is how long it has had nothing to do, or None when it must stay."""

    label: str
    need: Need
    idle_s: float | None


def budget_bytes(setting_mib: int, available_bytes: int, held_bytes: int) -> int:
    """What all engines together may take: the operator's figure, or a share of what the machine has for them.

    `available_bytes` is what the machine could give now; `held_bytes` is what running engines have taken from it
    already. Weights are mapped files, which the system counts as available while they are in use.
    """
    if setting_mib:
        return setting_mib * MIB
    return (available_bytes + held_bytes) * SHARE_PERCENT // 100


def num_parallel(kv_bytes_per_sequence: int, budget: int) -> int:
    """How many requests of a model run together at most, where the operator does not say.

    Sixteen decode a tenth faster than eight, and who waits less long is more content; beyond that little is gained.
    """
    return max(1, min(MAX_PARALLEL, budget // KV_SHARE // max(1, kv_bytes_per_sequence)))


def make_room(label: str, need: Need, budget: int, loaded: Sequence[Loaded]) -> list[str]:
    """The labels of the engines to end so that `label` fits: idle ones, longest idle first, and no more than needed.

    Raises:
        NoRoomError: it does not fit even so; the message has the numbers.
    """
    free = budget - sum(other.need.total_bytes for other in loaded)
    ended: list[Loaded] = []
    for other in sorted((o for o in loaded if o.idle_s is not None), key=lambda o: -(o.idle_s or 0)):
        if free >= need.total_bytes:
            break
        ended.append(other)
        free += other.need.total_bytes
    if free < need.total_bytes:
        raise NoRoomError(_refusal(label, need, free, budget, [o.label for o in loaded if o.idle_s is None]))
    for other in list(ended):  # a small one that was idle longest may have gone for nothing
        if free - other.need.total_bytes >= need.total_bytes:
            ended.remove(other)
            free -= other.need.total_bytes
    return [other.label for other in ended]


def _refusal(label: str, need: Need, free: int, budget: int, staying: list[str]) -> str:
    others = f", with {' and '.join(staying)} in use" if staying else ""
    return (
        f"cannot load model {label}: it needs {_mib_up(need.total_bytes)} MiB (weights {_mib_up(need.weights_bytes)},"
        f" KV {_mib_up(need.kv_bytes)}, margin {_mib_up(need.margin_bytes)}) and {max(0, free) // MIB} MiB of the"
        f" budget of {budget // MIB} MiB are free{others}; a smaller [model] context_tokens or [engine] parallel"
        " needs less"
    )


def _mib_up(count: int) -> int:
    return -(-count // MIB)
