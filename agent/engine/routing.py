"""Which lane sequences run in. Pure; the measurements behind it are in `docs/adr/0013-adapter-slots.md`.

One adapter at a time is fastest in the plain lane: each step costs 1.2 to 1.4 times as much where slots are selected
token by token. As soon as two different ones are in flight, slots win at any number of streams: in the plain lane they
would take turns, each step computing only one's tokens, with a switch of 5 ms in between. Sequences move with what they
have computed, so the choice is made anew whenever requests come and go.
"""

from collections.abc import Collection

# A lull in a mix of adapters is no reason to move: so many steps with a single one must have passed.
SINGLE_STEPS = 32


class Routing:
    """Remembers for how long a single adapter has been in flight. `in_slots`: sequences run in the lane with slots."""

    def __init__(self) -> None:
        self.in_slots = False
        self._num_single_steps = 0

    def note_step(self, in_flight: Collection[str | None]) -> bool:
        """Decides for the next step, given the adapters of all sequences; returns `in_slots`."""
        if len(set(in_flight)) > 1:
            self.in_slots, self._num_single_steps = True, 0
        elif in_flight:
            self._num_single_steps += 1
            self.in_slots = self.in_slots and self._num_single_steps < SINGLE_STEPS
        return self.in_slots
