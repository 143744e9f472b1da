"""Whose turn it is where adapters take turns in one context. Pure."""

# So many steps one has. Switching costs half a step, so longer turns would gain little and let others wait.
QUANTUM_STEPS = 4


class Turns:
    """Gives turns of equal length, the next one to the group that has waited for the longest."""

    def __init__(self) -> None:
        self._group = 0
        self._steps_left = 0
        self._last: dict[int, int] = {}  # when a group had its last step, or came
        self._num_steps = 0

    def choose(self, groups: set[int]) -> int | None:
        """The group of the next step, of those that have something to compute; None when there are none."""
        if not groups:
            return None
        # Who just came has waited for nothing: a flow of short requests would otherwise shut out a long one.
        self._last = {group: self._last.get(group, self._num_steps) for group in groups}
        if self._group not in groups or (self._steps_left <= 0 and len(groups) > 1):
            others = groups - {self._group}
            self._group = min(others, key=lambda group: self._last[group])
            self._steps_left = QUANTUM_STEPS
        self._steps_left -= 1
        self._num_steps += 1
        self._last[self._group] = self._num_steps
        return self._group
