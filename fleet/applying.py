"""Making a fleet what its file says: `fleet plan` and `fleet apply`."""

from fleet.api.apply import Change, FleetFile
from fleet.difference import Fleet, Past, Step, difference
from fleet.inventory import Inventory
from fleet.query import parse
from fleet.rollouts import Rollouts
from fleet.steering import Steering

NUM_PAST = 1000


class Applying:
    """Compares the fleet with a file, and changes what is different."""

    def __init__(self, inventory: Inventory, steering: Steering, rollouts: Rollouts) -> None:
        self._inventory = inventory
        self._steering = steering
        self._rollouts = rollouts

    def plan(self, file: FleetFile) -> list[Change]:
        """What `apply` would do.

        Raises:
            UsageError: the file cannot be followed.
        """
        return [step.change for step in difference(file, self._fleet(file))]

    def apply(self, file: FleetFile, actor: str) -> list[Change]:
        """Does it, in order; what is done stays done when something else cannot be. Twice is once.

        Raises:
            UsageError: the file cannot be followed.
            ConflictError: a release is not approved, or something else stands against it.
        """
        steps = difference(file, self._fleet(file))
        for step in steps:
            self._do(step, actor)
        return [step.change for step in steps]

    def _do(self, step: Step, actor: str) -> None:
        change = step.change
        if step.query is not None:
            self._steering.save_group(change.group, step.query, actor)
        elif step.settings is not None:
            self._steering.set_policy(change.group, step.settings, actor)
        elif step.wish is not None:
            self._rollouts.wish(change.nodes, step.wish, actor)
        elif step.plan is not None:
            self._rollouts.start(step.plan, actor)

    def _fleet(self, file: FleetFile) -> Fleet:
        labels = self._inventory.labels()
        members = {
            name: [record.node for record in self._inventory.find(parse(group.query, labels))]
            for name, group in file.groups.items()
        }
        return Fleet(
            labels=labels,
            groups={group.name: group for group in self._steering.groups()},
            members=members,
            wishes={node: held.document for node, held in self._inventory.wishes.all()},
            holds=self._rollouts.holds(),
            rollouts=[Past(one.plan, one.state.phase) for one in self._rollouts.newest(NUM_PAST)],
        )
