"""Errors of the `fleet` command, by who can act on them.

A message is one sentence: it starts "cannot …", names the value at fault and says what would do. It may be
shown as it is, so it never holds prompt or answer text.
"""

import socket
import ssl
from typing import ClassVar


class FleetError(Exception):
    """Base of all errors that end a command.

    Attributes:
        exit_code: what the command's process returns.
    """

    exit_code: ClassVar[int] = 1


class UsageError(FleetError):
    """The person at the keyboard: an option, argument or file is not what it should be."""

    exit_code = 2


class NotFoundError(UsageError):
    """The person at the keyboard: there is no node, group, operator or client of this name."""


class ConflictError(FleetError):
    """The person at the keyboard: what is there already stands against it."""


class AccessError(FleetError):
    """Whoever gives tokens: this one is none, or not any more, or its role may not do that."""

    exit_code = 5


class AnswerError(FleetError):
    """The node: it answered with an error, or not at all before the deadline."""


class DemoError(FleetError):
    """The demo's own machine: something it starts does not come up."""


class FolderError(FleetError):
    """The controller's machine: its folder, its database or a program it needs cannot be used."""


class NoRoomError(FleetError):
    """The controller's machine: its disk has no room for what would be stored."""


class EnrolmentError(FleetError):
    """A device or client, or who speaks for it: it gets no identity, or none any more.

    Attributes:
        code: a fixed word for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ControllerError(FleetError):
    """The controller's operator: it cannot be reached, or something in it does not work."""

    exit_code = 4


class BrokerError(FleetError):
    """The broker's operator: it cannot be reached, or it refuses."""

    exit_code = 4


class UnreachableError(BrokerError):
    """There is no connection to the broker, or it was lost."""


class RefusedError(BrokerError):
    """The broker is there and says no: to the log-in, a subscription or a message."""


def unreachable(address: str, error: OSError | UnicodeError, timeout_s: float) -> UnreachableError:
    """The error for a connection attempt to `address` that failed with `error`."""
    advice = "start it or name another with --broker"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted ({error.verify_message})"
        advice = "name the file of its CA with --ca"
    elif isinstance(error, ssl.SSLError):
        why = "TLS fails"
        advice = "write mqtt:// for a broker without TLS, or look for the reason in the broker's log"
    elif isinstance(error, socket.gaierror | UnicodeError):
        why = "no such host"
    elif isinstance(error, ConnectionResetError):  # in the handshake: a plain connection fails later
        why = "it closes the connection"
        advice = "is this its port for TLS?"
    elif isinstance(error, TimeoutError):
        why = f"no answer within {timeout_s:.0f} s"
    else:
        why = (error.strerror or type(error).__name__).lower()
    return UnreachableError(f"cannot reach the broker at {address}: {why}; {advice}")
