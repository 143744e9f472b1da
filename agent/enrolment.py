"""Enrolment and renewal at the controller, over HTTPS. For commands: the daemon never imports this.

The controller's root certificate is fetched without trust and compared with the digest from the line that the operator
pasted. Everything after that is sent over TLS that trusts this root alone; the token and the request go nowhere else.
"""

import hashlib
import re
import ssl
from pathlib import Path

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.errors import EnrolmentError
from agent.identity import CA_FILE, PEM_FILE, Identity, load_identity, store_identity
from agent.tls import NO_CHECK_TIME, tls_context
from contract.enrolment import CA_PATH, ENROL_PATH, RENEW_PATH, Enrol, Issued, Problem, token_id
from contract.ids import is_id

TIMEOUT_S = 20.0
END_OF_KEY = b"-----END PRIVATE KEY-----\n"

_URL = re.compile(r"https://[^/?#\s@]+\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def enrol(url: str, token: str, ca_sha256: str, folder: Path) -> Identity:
    """Makes a key, exchanges the token for a certificate, and writes both to `folder`.

    Raises:
        EnrolmentError: a part of the line is wrong, the controller cannot be reached, is another, or refuses.
    """
    url, name = url.rstrip("/"), token_id(token)
    if not _URL.match(url):
        raise EnrolmentError(f"cannot use {url!r}: paste the line as `fleet token create` printed it, https://…")
    if not is_id(name):
        raise EnrolmentError("cannot use this token: paste it whole, with the id before the colon")
    if not _DIGEST.match(ca_sha256.lower()):
        raise EnrolmentError(f"cannot use --ca-sha256 {ca_sha256!r}: it has 64 digits from 0 to 9 and a to f")
    ca = _fetch_root(url, ca_sha256.lower())
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    context = ssl.create_default_context(cadata=ca.decode())
    # A device without a clock chip starts in 1970. The root is pinned, and the certificate that comes back is signed
    # for a key that was made a moment ago, so its date is the time.
    context.verify_flags |= NO_CHECK_TIME
    body = Enrol(token, request.public_bytes(Encoding.PEM).decode())
    issued = _ask(url + ENROL_PATH, context, msgspec.json.encode(body))
    if issued.id != name:
        raise EnrolmentError(
            f"cannot enrol: the controller answered for {issued.id!r}, not for {name!r}; look at its log"
        )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    identity = _identity(issued, url)
    store_identity(folder, identity, private + issued.certificate.encode(), ca, issued.releases_root)
    return identity


def renew(folder: Path, *, check_time: bool) -> Identity:
    """Gets a new certificate for the same key.

    Raises:
        EnrolmentError: nobody enrolled here, the controller cannot be reached, or it refuses.
    """
    identity, pem = load_identity(folder), folder / PEM_FILE
    if identity is None:
        raise EnrolmentError(f"cannot renew: there is no identity in {folder}; enrol first, with `shoal-agent enroll`")
    try:
        context = tls_context(folder / CA_FILE, pem, check_time=check_time)
        private = pem.read_bytes().partition(END_OF_KEY)[0] + END_OF_KEY
    except OSError as error:
        raise EnrolmentError(f"cannot use the files in {folder}: {error}; enrol again with a new token") from error
    issued = _ask(identity.url + RENEW_PATH, context, b"")
    renewed = _identity(issued, identity.url)
    store_identity(folder, renewed, private + issued.certificate.encode(), releases_root=issued.releases_root)
    return renewed


def _identity(issued: Issued, url: str) -> Identity:
    return Identity(
        id=issued.id,
        role=issued.role,
        fleet=issued.fleet,
        url=url,
        broker_host=issued.broker_host,
        broker_port=issued.broker_port,
        issued_ms=issued.issued_ms,
        expires_ms=issued.expires_ms,
        signing_keys=issued.signing_keys,
    )


def _fetch_root(url: str, sha256: str) -> bytes:
    """The root certificate, when it has the digest."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    text = _request("GET", url + CA_PATH, blind, None).text
    try:
        certificate = ssl.PEM_cert_to_DER_cert(text)
    except ValueError:
        raise EnrolmentError(f"cannot enrol at {url}: it is no controller of a fleet; look at the line again") from None
    found = hashlib.sha256(certificate).hexdigest()
    if found != sha256:
        raise EnrolmentError(
            f"cannot trust {url}: its root certificate has the digest {found}; if the line was pasted whole, "
            "somebody is in between, or the controller was made anew"
        )
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def _ask(url: str, context: ssl.SSLContext, body: bytes) -> Issued:
    response = _request("POST", url, context, body)
    try:
        if response.status_code == httpx.codes.OK:
            return msgspec.json.decode(response.content, type=Issued)
        problem = msgspec.json.decode(response.content, type=Problem).error
    except msgspec.MsgspecError:
        raise EnrolmentError(
            f"cannot enrol at {url}: it answers with status {response.status_code}; is it a controller of a fleet?"
        ) from None
    raise EnrolmentError(problem.message)


def _request(method: str, url: str, context: ssl.SSLContext, body: bytes | None) -> httpx.Response:
    try:
        return httpx.request(method, url, content=body, verify=context, timeout=TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EnrolmentError(
            f"cannot reach the controller at {url}: {error}; is it running, and is this its host?"
        ) from error
