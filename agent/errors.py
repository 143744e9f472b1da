"""Errors of the agent, by who can act on them. What a sender did wrong is `contract.errors.Refused`."""


class AgentError(Exception):
    """Base: the message is one sentence that starts "cannot …" and says what would do."""


class ConfigError(AgentError):
    """The operator's configuration is at fault."""


class ModelError(AgentError):
    """A model file is missing, is not what it should be, or cannot be loaded."""


class StoreError(AgentError):
    """The state directory or its database cannot be used (disk full, read-only, damaged)."""


class NoSpaceError(StoreError):
    """Something does not fit on the disk or into its budget; the message has the numbers. As an answer: 507."""


class DamagedError(StoreError):
    """What is on the disk is not what was written there; the message names it. It has to be fetched again."""


class EngineError(AgentError):
    """The engine process does not start or does not answer."""


class EnrolmentError(AgentError):
    """The controller refuses or cannot be reached, or this device's identity is damaged."""


class ControlError(AgentError):
    """The daemon cannot be reached over its control socket."""
