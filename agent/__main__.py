"""Runs the daemon: `python -m agent [CONFIG]`. What `shoal-agent run` becomes, without the command line's libraries."""

import sys

EXIT_FAULT = 1
EXIT_CONFIG = 2

# structlog, sqlite-utils and others import these when they are installed, for features that a daemon has no use for.
# Left out, they save 60 ms of start and 10 MiB for as long as the daemon runs.
UNWANTED = ("rich", "numpy", "pandas", "IPython")


def main() -> int:
    """Serves until SIGTERM; returns the exit code."""
    for name in UNWANTED:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say "not to be imported"

    import asyncio

    from agent.config import load_config
    from agent.daemon import Daemon
    from agent.errors import AgentError, ConfigError
    from agent.logs import setup_logs

    async def serve() -> None:
        config = load_config(sys.argv[1] if len(sys.argv) > 1 else None)
        await Daemon(config, setup_logs(config.log)).run()

    try:
        asyncio.run(serve())
    except AgentError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
