"""The daemon as it is, with releases from a folder: `python -m tests.fakes.agent_with_depot CONFIG FOLDER`."""

import asyncio
import sys
from pathlib import Path

from agent.__main__ import UNWANTED


async def main() -> None:
    """Serves until SIGTERM."""
    from agent.config import load_config  # after what the agent leaves out
    from agent.daemon import Daemon
    from agent.logs import setup_logs
    from tests.fakes.folder_depot import FolderDepot

    config = load_config(sys.argv[1])
    await Daemon(config, setup_logs(config.log), FolderDepot(Path(sys.argv[2]))).run()


if __name__ == "__main__":
    for name in UNWANTED:
        sys.modules[name] = None  # type: ignore[assignment]  # as the agent does
    asyncio.run(main())
