"""A connection to the HTTPS server: uvicorn's, with the client's certificate and with a deadline for requests.

uvicorn gives applications no client certificate, and lets a client take for ever to send a request (slow-loris).
"""

import asyncio
import ssl
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# From the connection, or from the last answer, to the end of a request.
REQUEST_S = 10.0
# The key in ASGI's `state`: the certificate in DER form, or None.
PEER = "peer_certificate"
# Another: what gives a request its time again, for one who sends much and may.
MORE_TIME = "more_time"


class Connection(H11Protocol):
    """One connection."""

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Called by asyncio after the handshake."""
        super().connection_made(transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        peer = tls.getpeercert(binary_form=True) if tls else None
        self.app_state = {**self.app_state, PEER: peer, MORE_TIME: self._set_deadline}
        self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio at the end."""
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Called by uvicorn when an answer was sent; another request may follow."""
        self._set_deadline()
        super().on_response_complete()

    def _set_deadline(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        self._overdue = self.loop.call_later(REQUEST_S, self._end_when_overdue)

    def _end_when_overdue(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:  # else it is our turn, not the client's
            self.transport.abort()
