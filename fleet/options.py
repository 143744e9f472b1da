"""The options that every command shares: which broker, which fleet, which certificates."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contract.ids import ID_RULE, is_id
from fleet.broker_url import DEFAULT_URL, BrokerUrl, parse_broker_url
from fleet.errors import UsageError

if TYPE_CHECKING:
    from fleet.link import Link


@dataclass(frozen=True)
class Options:
    """The checked values of the global options. `is_broker_named`: it is not the default one."""

    broker: BrokerUrl
    fleet: str
    is_broker_named: bool = True
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def open_link(self, *, session_s: int = 0) -> "Link":
        """Connects to the broker.

        Raises:
            UsageError: a certificate or key cannot be used.
            BrokerError: the broker cannot be reached, or refuses.
        """
        from fleet.link import open_link  # most commands need no MQTT

        return open_link(self.broker, self._tls(), session_s=session_s)

    def _tls(self) -> ssl.SSLContext | None:
        if not self.broker.tls:
            return None
        context = ssl.create_default_context()
        if self.ca is not None:
            try:
                context = ssl.create_default_context(cafile=self.ca)
            except OSError as error:  # ssl.SSLError is one
                raise _unusable("--ca", self.ca, error, "a file with certificates in PEM form") from error
        if self.cert is not None:
            try:
                # Without a function that gives it, OpenSSL would ask for an encrypted key's password here.
                context.load_cert_chain(self.cert, self.key, password=lambda: "")
            except OSError as error:
                wanted = "a certificate in PEM form, and --key its key without a password"
                raise _unusable("--cert", self.cert, error, wanted) from error
        return context


def check_options(
    *, broker: str | None, fleet: str, ca: Path | None = None, cert: Path | None = None, key: Path | None = None
) -> Options:
    """Checks the global options.

    Raises:
        UsageError: says which option is wrong and what is accepted.
    """
    url = parse_broker_url(broker or DEFAULT_URL)
    if not is_id(fleet):
        raise UsageError(f"cannot use fleet {fleet!r}: an id is {ID_RULE}")
    if not url.tls and (ca or cert or key):
        raise UsageError(f"cannot use --ca, --cert or --key with {url}: without TLS they do nothing; write mqtts://…")
    if key is not None and cert is None:
        raise UsageError(f"cannot use --key {str(key)!r} alone: name its certificate with --cert")
    return Options(url, fleet, broker is not None, ca, cert, key)


def _unusable(option: str, path: Path, error: OSError, wanted: str) -> UsageError:
    why = error.strerror
    if isinstance(error, ssl.SSLError):
        why = (error.reason or "not valid").replace("_", " ")
    return UsageError(f"cannot use {option} {str(path)!r}: {str(why).lower()}; name {wanted}")
