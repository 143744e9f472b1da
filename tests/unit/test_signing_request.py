"""Signing requests that are refused, and the one form that is not."""

from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleet.errors import EnrolmentError
from fleet.signing_request import check_request, key_digest
from tests.fakes.signing_requests import common_name, request

PEM = "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----"
P256 = ec.SECP256R1()


def test_a_plain_request_is_accepted() -> None:
    """A common name and a P-256 key is all there is, and the key comes out."""
    key = ec.generate_private_key(P256)
    accepted = check_request(request("n1", key), "n1")
    assert key_digest(accepted) == key_digest(key.public_key())


def with_extension(extension: x509.ExtensionType) -> str:
    """A request that asks for an extension."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("n1"))
    builder = builder.add_extension(extension, critical=True)
    return builder.sign(ec.generate_private_key(P256), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def with_key(key: Any) -> str:
    """A request for another kind of key."""
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("n1"))
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM).decode()


def with_subject(*attributes: tuple[x509.ObjectIdentifier, str]) -> str:
    """A request for another subject."""
    subject = x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(ec.generate_private_key(P256), hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def damaged() -> str:
    """A request whose subject was changed after it was signed."""
    der = x509.load_pem_x509_csr(request("n2", ec.generate_private_key(P256)).encode()).public_bytes(Encoding.DER)
    return x509.load_der_x509_csr(der.replace(b"n2", b"n1")).public_bytes(Encoding.PEM).decode()


CN, O = x509.NameOID.COMMON_NAME, x509.NameOID.ORGANIZATION_NAME  # noqa: E741  # its name in X.509
REFUSED: dict[str, tuple[str, Callable[[], str]]] = {
    "CA:TRUE": ("csr_extensions", lambda: with_extension(x509.BasicConstraints(ca=True, path_length=None))),
    "another use": (
        "csr_extensions",
        lambda: with_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])),
    ),
    "another name beside": (
        "csr_extensions",
        lambda: with_extension(x509.SubjectAlternativeName([x509.DNSName("n2")])),
    ),
    "RSA 1024": ("csr_key", lambda: with_key(rsa.generate_private_key(65537, 1024))),  # noqa: S505  # the point of it
    "RSA 4096": ("csr_key", lambda: with_key(rsa.generate_private_key(65537, 4096))),
    "P-192": ("csr_key", lambda: with_key(ec.generate_private_key(ec.SECP192R1()))),
    "P-384": ("csr_key", lambda: with_key(ec.generate_private_key(ec.SECP384R1()))),
    "Ed25519": ("csr_key", lambda: with_key(ed25519.Ed25519PrivateKey.generate())),
    "another name": ("csr_name", lambda: with_subject((CN, "n2"))),
    "the controller's name": ("csr_name", lambda: with_subject((CN, "_controller"))),
    "two names": ("csr_name", lambda: with_subject((CN, "n1"), (CN, "n2"))),
    "more than a name": ("csr_name", lambda: with_subject((CN, "n1"), (O, "Shoal"))),
    "no name": ("csr_name", with_subject),
    "another signature": ("csr_invalid", damaged),
    "no request": (
        "csr_invalid",
        lambda: PEM.format("AAAA"),
    ),
    "not even PEM": ("csr_invalid", lambda: "ü"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_everything_else_is_refused(which: str) -> None:
    """Each with the word that says why."""
    code, make = REFUSED[which]
    with pytest.raises(EnrolmentError, match=r"^cannot ") as refused:
        check_request(make(), "n1")
    assert refused.value.code == code
