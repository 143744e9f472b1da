"""What a device sends to be signed."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding


def common_name(name: str) -> x509.Name:
    """A subject."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def request(name: str, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    """A signing request, in PEM form."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(name))
    signer = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
