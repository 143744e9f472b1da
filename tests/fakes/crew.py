"""Simulated nodes at headquarters: they follow their newest documents when they are told to."""

from collections.abc import Iterable

from contract.steering import Desired
from tests.fakes.headquarters import Headquarters

GATE = {"reasons": ["answer 1 is empty"]}


RELEASES = {
    *((f"m@{version}", "model") for version in "123"),
    *((f"{name}@{version}", "adapter") for name in ("tone", "home") for version in "12"),
}


class Crew:
    """Nodes that are well. Of the release `bad` those in `rejecting` say that their gate turned it away."""

    def __init__(self, headquarters: Headquarters, names: Iterable[str], bad: str = "") -> None:
        self.headquarters = headquarters
        headquarters.approved |= RELEASES
        self.names = list(names)
        self.bad = bad
        self.rejecting: set[str] = set(self.names)
        self.away: set[str] = set()  # say nothing
        for name in self.names:
            if headquarters.inventory.record(name) is None:
                headquarters.join(name, site="here")

    def follow(self) -> list[str]:
        """They do what is wished of them; the names of those that had something to do."""
        inventory, busy = self.headquarters.inventory, []
        for name in self.names:
            held = inventory.wishes.held(name)
            if held is not None and name not in self.away and inventory.reported_rev(name) != held.rev:
                self._report(name, held.document)
                busy.append(name)
        return busy

    def _report(self, name: str, wish: Desired) -> None:
        if self.bad in (wish.model, *wish.adapters) and name in self.rejecting:
            last = self.headquarters.inventory.reported(name)
            active, adapters = (last.active, last.adapters) if last else (None, [])
            self.headquarters.report(
                name, wish.rev, "refused", active=active, adapters=adapters, gate=GATE, error="the gate says no"
            )
        else:
            self.headquarters.report(name, wish.rev, "confirmed", active=wish.model, adapters=wish.adapters)

    def settle(self, num_steps: int = 40) -> None:
        """They and the controller go on until neither has anything to do."""
        for _ in range(num_steps):
            self.headquarters.now_ms += 1000
            self.headquarters.rollouts.step()
            if not self.follow():
                self.headquarters.rollouts.step()
                return
        raise AssertionError("it does not settle")

    def models(self, name: str) -> list[str | None]:
        """The models that were ever wished of a node, in order, without repetitions."""
        found: list[str | None] = []
        for document in self.headquarters.documents(name):
            if found[-1:] != [document.model]:
                found.append(document.model)
        return found
