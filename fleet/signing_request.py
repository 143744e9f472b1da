"""Certificate signing requests: only what a device of ours makes is accepted. Pure.

Nothing of a request gets into the certificate but its key; it is refused all the same when it asks for more, because
who asks for more is not one of our devices.
"""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from fleet.errors import EnrolmentError


def check_request(pem: str, name: str) -> ec.EllipticCurvePublicKey:
    """The key that a signing request proves to hold.

    Raises:
        EnrolmentError: it is damaged, not for `name`, not for a P-256 key, or asks for more than a name.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        names = list(request.subject)
        valid, key, attributes = request.is_signature_valid, request.public_key(), list(request.attributes)
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise EnrolmentError(
            "csr_invalid", "cannot read the signing request: send a PKCS #10 request in PEM form"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolmentError("csr_key", "cannot sign this key: only keys on the curve P-256 are accepted")
    if not valid:
        raise EnrolmentError("csr_invalid", "cannot use the signing request: it is not signed by the key in it")
    if len(names) != 1 or names[0].oid != NameOID.COMMON_NAME or names[0].value != name:
        raise EnrolmentError(
            "csr_name", f"cannot sign this name: the subject must be the common name {name!r} and nothing else"
        )
    if attributes:
        raise EnrolmentError(
            "csr_extensions", "cannot sign what the request asks for: it must ask for no extensions or attributes"
        )
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key, by which it is known again."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()
