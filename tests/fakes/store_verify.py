"""Says what is wrong with a store of adapters, and their names: python -m tests.fakes.store_verify STATE_DIR."""

import sys
from pathlib import Path

from agent.store.adapters import AdapterStore

if __name__ == "__main__":
    store = AdapterStore(Path(sys.argv[1]), repair=False)
    problems = store.problems()
    print(len(problems), "problems,", *problems, *(entry.name for entry in store.entries()))  # noqa: T201  # its use
