"""Where the broker is: `mqtt://user:password@host:1883` or `mqtts://host:8883`.

The password is never shown, neither in errors nor in a representation.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, quote, unquote, urlsplit

from fleet.errors import UsageError

ENV_BROKER = "SHOAL_BROKER"
DEFAULT_URL = "mqtt://127.0.0.1:1883"
PORTS = {"mqtt": 1883, "mqtts": 8883}
FORM = "mqtt://[user[:password]@]host[:port], or mqtts:// for TLS"

_HOST = re.compile(r"[^\s/@\\]+\Z")


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's address and the log-in for it."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """`host:port`, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        login = ""
        if self.user is not None:
            login = quote(self.user, safe="") + ("" if self.password is None else ":***") + "@"
        return f"{'mqtts' if self.tls else 'mqtt'}://{login}{self.address}"


def parse_broker_url(text: str) -> BrokerUrl:
    """Reads a broker URL. User and password are percent-decoded; the port defaults to 1883, or 8883 with TLS.

    Raises:
        UsageError: says what is wrong and which form is accepted.
    """
    if "://" not in text:
        raise _refused(text, "it has no scheme")
    if not text.isprintable() or " " in text:  # urlsplit would drop some of these without a word
        raise _refused(text, "it holds spaces or control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:  # its message may quote a part of the password
        raise _refused(text, "its host or port cannot be read") from None
    if parts.scheme not in PORTS:
        raise _refused(text, f"the scheme {parts.scheme!r} is not known")
    _check(text, parts)
    return BrokerUrl(
        host=parts.hostname or "",
        port=PORTS[parts.scheme] if port is None else port,
        tls=parts.scheme == "mqtts",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )


def _check(text: str, parts: SplitResult) -> None:
    """The rules that `urlsplit` does not have."""
    if not parts.hostname or _HOST.match(parts.hostname) is None:
        raise _refused(text, "it names no host")
    if parts.port == 0:
        raise _refused(text, "port 0 is none; 1 to 65535 are")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise _refused(text, "nothing may follow the port (in a password, / ? # are written %2F %3F %23)")
    if parts.username == "":
        raise _refused(text, "it has a password without a user")


def _refused(text: str, why: str) -> UsageError:
    return UsageError(f"cannot use broker {_masked(text)!r}: {why}; write {FORM}")


def _masked(text: str) -> str:
    """The text without what may be a log-in: all before the last `@`, encoded or not."""
    login, at, rest = text.rpartition("@")
    scheme, sep, _ = login.partition("://")
    return f"{scheme if sep else ''}{sep}***@{rest}" if at else text
