"""How getting a release can end other than well. The message says why, and what would do."""

from agent.errors import AgentError


class UpdateRefused(AgentError):
    """This node cannot have the release, or should not: trying again would change nothing."""


class UpdateFailed(AgentError):
    """It went wrong for good, such as a source that says that there is no such file."""


class UpdateTroubled(AgentError):
    """It went wrong this time; `after_ms` is how long a source asks to be left alone."""

    def __init__(self, reason: str, after_ms: int = 0) -> None:
        super().__init__(reason)
        self.after_ms = after_ms
