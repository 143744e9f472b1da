"""The servers that an errand may ask, with the TLS that each of them needs."""

import ssl
from pathlib import Path

from agent.tls import NO_CHECK_TIME, tls_context
from agent.update.errand import Link
from agent.update.errors import UpdateTroubled
from agent.update.local_origin import LocalOrigin
from agent.update.origin import Origin
from agent.update.pace import Pace


def origins_of(link: Link, pace: Pace | None = None) -> list[Origin | LocalOrigin]:
    """The origins, in the order in which they are named.

    Raises:
        UpdateTroubled: files for TLS cannot be used, or an address is none.
    """
    try:
        servers: list[Origin | LocalOrigin] = [Origin(url, _context(url, link), pace=pace) for url in link.sources]
    except OSError as error:
        raise UpdateTroubled(f"cannot use this node's identity for fetching: {error}; enrol again") from error
    except ValueError as error:
        raise UpdateTroubled(f"cannot use the sources {', '.join(link.sources)}: {error}") from error
    return servers + ([LocalOrigin(Path(link.bundle))] if link.bundle else [])


def _context(url: str, link: Link) -> ssl.SSLContext | None:
    if not url.startswith("https:"):
        return None
    return _own(link) if url == link.sources[0] else _public(link)


def _own(link: Link) -> ssl.SSLContext:
    """For the controller: the fleet's root and nobody else's, and who this node is."""
    return tls_context(link.ca_file, link.pem_file, check_time=link.check_time)


def _public(link: Link) -> ssl.SSLContext:
    """For mirrors: the fleet's root or one that the system trusts. They need not know who asks.

    What they send is signed or named by its digest, so where the clock is wrong an expired certificate does no harm.
    """
    context = ssl.create_default_context()
    if link.ca_file:
        context.load_verify_locations(link.ca_file)
    if not link.check_time:
        context.verify_flags |= NO_CHECK_TIME
    return context
