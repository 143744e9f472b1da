"""The tasks that there are adapters for."""

from pathlib import Path

from training import home, triage
from training.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (home.TASK, triage.TASK)}
# The adapters that ship, each with its schema and its card. Those of a family share their A matrices.
SHIPPED = Path(__file__).parent / "adapters"
SHARED_A = "-shared-a"


def task_of(adapter: str) -> Task:
    """The task of an adapter, by the adapter's name."""
    return TASKS[adapter.removesuffix(SHARED_A)]
