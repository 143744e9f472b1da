"""Two ways to run sequences with different adapters in one context.

`TurnSwitch` sets one adapter for a whole step, so that adapters take turns; it works with every model. `SlotSwitch`
lets each token of a step use its own; see `agent.engine.shards` for what that needs.
"""

from typing import Protocol

from agent.engine.adapters import Adapter, Adapters, PlainAdapters
from agent.engine.kv_state import Bytes, Router, with_router, without_router
from agent.engine.llama import Context
from agent.engine.sequence import Sequence
from agent.engine.shards import ROUTER_GAIN
from agent.engine.slot_table import SlotTable
from agent.engine.stack import Stack


class Switch(Protocol):
    """How a lane applies adapters."""

    def claim(self, sequence: Sequence) -> bool:
        """Makes the sequence's adapter ready and keeps it so until `release`; False when it must wait.

        Raises:
            ModelError: the adapter cannot be used.
        """

    def release(self, sequence: Sequence) -> None:
        """The sequence needs its adapter no more."""

    def group(self, sequence: Sequence) -> int:
        """What a sequence's next token needs; tokens of one step must need the same."""

    def activate(self, context: Context, group: int) -> None:
        """The next step in the context computes tokens of this group.

        Raises:
            ModelError: the adapter cannot be used.
        """

    def token(self, sequence: Sequence, position: int) -> int:
        """What stands for a token of the sequence in a batch."""

    def note_waiting(self, adapters: set[str]) -> None:
        """Sequences with these adapters wait."""

    def stripped(self, state: Bytes) -> Bytes:
        """A state of this lane in the form in which states are kept."""

    def dressed(self, state: Bytes, sequence: Sequence) -> Bytes:
        """A kept state as this lane needs it for the sequence."""


class TurnSwitch:
    """Adapters take turns."""

    def __init__(self, adapters: Adapters, plain: PlainAdapters) -> None:
        self._adapters = adapters
        self._plain = plain
        self._used: dict[Sequence, Adapter] = {}
        self._active: tuple[Context | None, int] = (None, 0)

    def claim(self, sequence: Sequence) -> bool:
        """Never waits: llama.cpp holds as many adapters as there are, each from where it first acts."""
        if sequence.adapter is not None:
            adapter = self._adapters.find(sequence.adapter)
            self._used[sequence] = adapter
            sequence.adapter_number, sequence.slot = adapter.number, 0
        return True

    def release(self, sequence: Sequence) -> None:
        """It may be freed, once others need the place."""
        self._used.pop(sequence, None)

    def group(self, sequence: Sequence) -> int:
        """The adapter's number from where it begins to act."""
        return sequence.adapter_number if sequence.position >= sequence.activation else 0

    def activate(self, context: Context, group: int) -> None:
        """Sets the adapter, which costs 5 ms when it is another one, and as much again when it is to be loaded."""
        if self._active == (context, group):
            return
        adapter = next((adapter for adapter in self._used.values() if adapter.number == group), None)
        context.set_adapter(self._plain.pointer(adapter) if adapter else None)
        self._active = (context, group)
        self._plain.free_unused({group} | {other.number for other in self._used.values()})

    def token(self, sequence: Sequence, position: int) -> int:
        """The token itself."""
        return sequence.tokens[position]

    def note_waiting(self, adapters: set[str]) -> None:
        """Nobody waits here."""

    def stripped(self, state: Bytes) -> Bytes:
        """As it is."""
        return state

    def dressed(self, state: Bytes, sequence: Sequence) -> Bytes:  # noqa: ARG002
        """As it is."""
        return state


class SlotSwitch:
    """Each sequence has its adapter in a slot."""

    def __init__(self, adapters: Adapters, stack: Stack, activation_tokens: list[int], head_size: int) -> None:
        self._adapters = adapters
        self._stack = stack
        self._table = SlotTable(len(activation_tokens))
        self._activation_tokens = activation_tokens
        self._head_size = head_size

    def claim(self, sequence: Sequence) -> bool:
        """Waits when all slots are in use. Writing an adapter into a slot takes some milliseconds."""
        if sequence.adapter is not None:
            adapter = self._adapters.find(sequence.adapter)
            claimed = self._table.claim(sequence.adapter)
            if claimed is None:
                return False
            sequence.adapter_number, sequence.slot = adapter.number, claimed.slot
            if claimed.is_new:
                self._stack.write(adapter, claimed.slot)
        return True

    def release(self, sequence: Sequence) -> None:
        """The slot keeps the adapter until another one needs it."""
        if sequence.slot:
            self._table.release(sequence.slot)
            sequence.slot = 0

    def group(self, sequence: Sequence) -> int:  # noqa: ARG002
        """All fit one step."""
        return 0

    def activate(self, context: Context, group: int) -> None:
        """There is nothing to set."""

    def token(self, sequence: Sequence, position: int) -> int:
        """Where the adapter begins to act, the token that stands for its slot."""
        if sequence.slot and position == sequence.activation:
            return self._activation_tokens[sequence.slot - 1]
        return sequence.tokens[position]

    def note_waiting(self, adapters: set[str]) -> None:
        """Promises of slots hold only for these."""
        self._table.keep_promises_to(adapters)

    def stripped(self, state: Bytes) -> Bytes:
        """Without the router's layer."""
        return without_router(state)

    def dressed(self, state: Bytes, sequence: Sequence) -> Bytes:
        """With a router's layer that selects the sequence's slot."""
        return with_router(state, Router(self._head_size, ROUTER_GAIN, sequence.slot, sequence.activation))
