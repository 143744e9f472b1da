"""Enrolment and renewal over HTTPS: what a device sends to the controller, and what it gets.

GET  /v1/ca       the root certificate, in PEM form. Fetched without trust, then compared with the pinned digest.
POST /v1/enroll   Enrol -> Issued
POST /v1/renew    (nothing; the client certificate in TLS says who and which key) -> Issued
Anything that is refused is an HTTP status and a `Problem`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from contract.ids import END
from contract.requests import Id

CA_PATH = "/v1/ca"
ENROL_PATH = "/v1/enroll"
RENEW_PATH = "/v1/renew"
# Not of enrolment, but for who has enrolled: a request for the cloud, as on the topic `CloudRequest`.
CLOUD_PATH = "/v1/cloud"

DAY_MS = 24 * 3600 * 1000
CERTIFICATE_LIFE_MS = 7 * DAY_MS
# An expired certificate still renews itself, with the same key, for this long: a device may have been off.
RENEWAL_GRACE_MS = 30 * DAY_MS

MAX_ENROL_BYTES = 8192

Role = Literal["node", "client"]
SigningKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}" + END, description="A raw Ed25519 public key, in hex.")]


class Enrol(Struct, frozen=True):
    """A token and a certificate signing request (PKCS #10, PEM) whose common name is the id in the token."""

    token: Annotated[str, Meta(max_length=256)]
    csr: Annotated[str, Meta(max_length=4096)]


class Issued(Struct, frozen=True, kw_only=True):
    """An identity: the certificate, and where it is of use."""

    id: Id
    role: Role
    fleet: Id
    certificate: Annotated[str, Meta(description="PEM.")]
    broker_host: str
    broker_port: Annotated[int, Meta(ge=1, le=65535)]
    issued_ms: Annotated[int, Meta(ge=0, description="The controller's clock, ms since 1970.")]
    expires_ms: Annotated[int, Meta(ge=0)]
    signing_keys: Annotated[
        list[SigningKey], Meta(description="Whose signatures count on desired state; all of them, others no more.")
    ] = []
    releases_root: Annotated[
        str | None, Meta(description="TUF root metadata, JSON: whose signatures count on releases. For nodes.")
    ] = None


class Reason(Struct, frozen=True):
    """A fixed word for programs, and a sentence for people."""

    code: str
    message: str


class Problem(Struct, frozen=True):
    """Why there is no certificate."""

    error: Reason


def token_id(token: str) -> str:
    """The id that a token is for. It stands before the secret, so that a device learns its own id from the token."""
    return token.rpartition(":")[0]
