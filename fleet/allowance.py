"""How much of what a node sends is stored in an hour: a device in wrong hands must not fill the database. Pure."""

from fleet.readings import HOUR_MS

# At the highest level telemetry is 215 kB an hour; the rest is room for events and for the logs that operators fetch.
MAX_HOURLY_BYTES = 1024 * 1024
ROW_BYTES = 100  # what a row of telemetry takes in the database beside its text


class Allowance:
    """Counts the bytes of each node."""

    def __init__(self) -> None:
        self._hour = 0
        self._spent: dict[str, int] = {}

    def take(self, node: str, num_bytes: int, now_ms: int) -> bool:
        """Whether a node may have so many more stored in this hour; then they are counted."""
        if now_ms // HOUR_MS != self._hour:
            self._hour, self._spent = now_ms // HOUR_MS, {}
        spent = self._spent.get(node, 0) + num_bytes
        if spent > MAX_HOURLY_BYTES:
            return False
        self._spent[node] = spent
        return True
