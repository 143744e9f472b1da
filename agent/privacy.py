"""Where a prompt may go. Pure.

Whatever leaves this node for another one or for a cloud is a `Cleared`, and only `clear` makes one: what sends takes
nothing else. `local` never leaves the node; `site` goes to nodes of the same site; `redact` there too, and to a cloud
after redaction; `any` to both as it is. A request that does not say is `local` here, whatever stood in the settings.
"""

from msgspec import Struct
from msgspec.structs import replace

from agent.redaction import Redactor
from contract.errors import Refused
from contract.requests import Handed, Privacy, Reason, Request
from contract.status import Status


class Peer(Struct, frozen=True):
    """Another node, and the site that it is on."""

    node: str
    site: str


class Cloud(Struct, frozen=True):
    """A provider's model, through the controller."""


Way = Peer | Cloud


class Cleared(Struct, frozen=True):
    """What may leave on a way, exactly as it may, and the digest of its texts. Made by `clear` alone."""

    request: Request
    way: Way
    sha256: str
    redacted: dict[str, int] = {}  # how much of which kind was taken out


def may_leave(privacy: Privacy | None, way: Way, own_site: str) -> bool:
    """Whether a prompt of this privacy may go that way. A node without a site has no neighbours."""
    match way:
        case Peer(site=site):
            return privacy in ("site", "redact", "any") and bool(own_site) and site == own_site
        case Cloud():
            return privacy in ("redact", "any")


def clear(request: Request, way: Way, *, client: str, why: Reason, own_site: str, redactor: Redactor) -> Cleared:
    """The request as it may go that way: redacted if it must be, and without what only matters here.

    Raises:
        Refused: 403; it may not.
    """
    privacy = request.privacy or "local"
    if not may_leave(privacy, way, own_site):
        where = f"node {way.node}" if isinstance(way, Peer) else "a cloud"
        raise Refused(
            Status.FORBIDDEN,
            "privacy",
            f"cannot hand the request to {where}: its privacy is {privacy!r}; see `privacy`",
        )
    found: dict[str, int] = {}
    if isinstance(way, Cloud) and privacy == "redact":
        request, found = redactor.redact(request)
    # Names of conversations are a client's own words, and logits are biased by tokens of this node's model.
    leaving = replace(request, conversation=None, reply_to=None, handed=Handed(client, why), privacy=privacy)
    if isinstance(way, Cloud):
        leaving = replace(leaving, logit_bias=None, model=None, adapter=None, activation=None)
    return Cleared(leaving, way, leaving.texts_sha256, found)
