"""uvicorn, as a part of this process: our signals, our TLS, our logs."""

import contextlib
import ssl
from collections.abc import Iterator

from starlette.applications import Starlette
from uvicorn import Config, Server

from fleet.folder import ROLES, Folder
from fleet.web.connection import Connection

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which `ssl` does not name.
NO_CHECK_TIME = 0x200000
CLOSING_S = 5


class WebServer(Server):
    """A server that leaves signals to its owner: set `should_exit`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Called by uvicorn, which would end the process before its other parts have said goodbye."""
        yield


def make_server(folder: Folder, app: Starlette) -> WebServer:
    """The HTTPS server of a controller, on all addresses of this machine."""
    context = tls_context(folder)
    return WebServer(
        Config(
            app,
            host="",
            port=folder.settings.https.port,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ssl_context_factory=lambda _config, _default: context,
            timeout_graceful_shutdown=CLOSING_S,
        )
    )


def tls_context(folder: Folder) -> ssl.SSLContext:
    """TLS that asks for a certificate of a node or client, and takes none as well."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*folder.key_pair("https"))
    context.verify_mode = ssl.CERT_OPTIONAL
    for role in ROLES:
        context.load_verify_locations(cadata=folder.authority(role).certificate_pem.decode())
    # An expired certificate may still renew itself; `Enrolment.renew` looks at the dates.
    context.verify_flags |= NO_CHECK_TIME
    return context
