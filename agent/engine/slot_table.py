"""Which adapter is in which slot. Pure.

A slot is given to an adapter as long as a sequence uses it; then it keeps the adapter until another one needs the
place. When all slots are in use, an adapter that waits gets the next one: the slot with the fewest users takes no new
ones, so that an adapter that many use cannot shut out one that few use.
"""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class Slot:
    """One place in the stack."""

    adapter: str | None = None
    num_users: int = 0
    last_use: int = 0
    promised_to: str | None = None


class Claim(NamedTuple):
    """A slot, and whether the adapter must be written there first."""

    slot: int
    is_new: bool


class SlotTable:
    """The slots 1 to `num_slots`; slot 0 is the base."""

    def __init__(self, num_slots: int) -> None:
        self.slots = [Slot() for _ in range(num_slots)]
        self._uses = 0

    def claim(self, adapter: str) -> Claim | None:
        """A slot for one more user of an adapter.

        None when all are in use; it is promised one then, and asks again.
        """
        for number, slot in enumerate(self.slots, 1):
            if slot.adapter == adapter and slot.promised_to in (None, adapter):
                return Claim(self._use(number), is_new=False)
        free = self._free_slot(adapter)
        if free is None:
            self._promise(adapter)
            return None
        slot = self.slots[free - 1]
        slot.adapter, slot.promised_to = adapter, None
        return Claim(self._use(free), is_new=True)

    def release(self, number: int) -> None:
        """One user less."""
        self.slots[number - 1].num_users -= 1

    def keep_promises_to(self, waiting: set[str]) -> None:
        """Takes back promises to adapters that nobody waits for any more."""
        for slot in self.slots:
            if slot.promised_to not in waiting:
                slot.promised_to = None

    def _use(self, number: int) -> int:
        slot = self.slots[number - 1]
        self._uses += 1
        slot.num_users, slot.last_use = slot.num_users + 1, self._uses
        return number

    def _free_slot(self, adapter: str) -> int | None:
        free = [
            number
            for number, slot in enumerate(self.slots, 1)
            if not slot.num_users and slot.promised_to in (None, adapter)
        ]

        # One that was promised, an empty one, or the one that was not needed for the longest.
        def order(number: int) -> tuple[bool, bool, int]:
            slot = self.slots[number - 1]
            return slot.promised_to != adapter, slot.adapter is not None, slot.last_use

        return min(free, key=order, default=None)

    def _promise(self, adapter: str) -> None:
        if any(slot.promised_to == adapter for slot in self.slots):
            return
        open_slots = [slot for slot in self.slots if slot.promised_to is None]
        if open_slots:
            min(open_slots, key=lambda slot: (slot.num_users, slot.last_use)).promised_to = adapter
