"""Runs the daemon: `python -m agent [CONFIG]`. What `shoal-agent run` becomes, without the command line's libraries."""

import asyncio
import sys

from agent.config import load_config
from agent.daemon import Daemon
from agent.errors import AgentError
from agent.logs import setup_logs

EXIT_CONFIG = 2


async def _run(path: str | None) -> None:
    config = load_config(path)
    setup_logs(config.log)
    await Daemon(config).run()


if __name__ == "__main__":
    try:
        asyncio.run(_run(sys.argv[1] if len(sys.argv) > 1 else None))
    except AgentError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_CONFIG)
