"""One change of an adapter store in a process of its own, which may be killed at any system call.

python -m tests.fakes.store_change STATE_DIR import|remove|evict|collect [FILE]
"""

import sys
from pathlib import Path

from agent.errors import AgentError
from agent.models import BaseFile, digest_of
from agent.store import adapters
from agent.store.adapters import AdapterStore

BASE = "base.gguf"


def import_(store: AdapterStore, folder: Path, source: Path, budget_bytes: int = 1 << 30) -> None:
    """An import for the base model in the folder."""
    from agent.adapter_import import Terms, import_adapter  # half of the start, which other changes can do without

    base = folder / BASE
    bases = [BaseFile("base@1", digest_of(base), str(base), is_default=True)]
    import_adapter(store, source, Terms(bases=bases, budget_bytes=budget_bytes))


def main() -> None:
    """Makes the change."""
    state_dir, change = Path(sys.argv[1]), sys.argv[2]
    store = AdapterStore(state_dir, repair=False)
    match change:
        case "import":
            import_(store, state_dir, Path(sys.argv[3]))
        case "import-without-reserve":
            setattr(adapters, "RESERVE_BYTES", -(1 << 40))  # noqa: B010  # it is not exported for that
            import_(store, state_dir, Path(sys.argv[3]))
        case "evict":
            import_(store, state_dir, Path(sys.argv[3]), store.stored_bytes())
        case "remove":
            store.remove("a")
        case "collect":
            store.collect(())
            store.shrink()
    store.close()


if __name__ == "__main__":
    try:
        main()
    except AgentError as error:
        sys.exit(f"{type(error).__name__}: {error}")
