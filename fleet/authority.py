"""Certificates: the authorities of a fleet, and what they sign. Values in, values out; the time is passed in.

What always holds:
- All keys are P-256. A certificate of an authority signs, every other one does not.
- A server's certificate cannot log in, and a node's or client's cannot serve: the extended key usage says which.
- Of two revocation lists the one made later has the later `last_update`. OpenSSL goes by that alone, in seconds,
  and a broker that reads its list again keeps the old ones too.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3653)
# Servers live as long as their authority, whose key lies beside theirs: who takes one has the other.
SERVER_LIFE = AUTHORITY_LIFE
LIST_LIFE = timedelta(days=90)  # OpenSSL refuses everybody when the list has expired
# For clocks that are a little behind. A list needs more, so that it can step ahead of the one before.
BACKDATED = timedelta(minutes=5)
LIST_BACKDATED = timedelta(days=1)


@dataclass(frozen=True)
class KeyPair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def from_pem(cls, key: bytes, certificate: bytes) -> Self:
        """What `key_pem` and `certificate_pem` gave.

        Raises:
            ValueError: this is no P-256 key, or no certificate.
        """
        private = load_pem_private_key(key, password=None)
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise ValueError("it is no key on an elliptic curve")
        return cls(private, x509.load_pem_x509_certificate(certificate))

    @property
    def key_pem(self) -> bytes:
        """The private key. Write it only to a file that nobody else can read."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def certificate_pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def digest(self) -> str:
        """The certificate's SHA-256, as a device pins it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


class Authority(KeyPair):
    """A key pair that signs."""

    @classmethod
    def new(cls, name: str, now: datetime) -> Self:
        """A self-signed authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, _name(name), key.public_key(), now, AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs=True), critical=True)
        return cls(key, builder.sign(key, hashes.SHA256()))

    def server(self, host: str, now: datetime) -> KeyPair:
        """A new key with a certificate for a server at `host`, a name or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _leaf(self, host[:64], key.public_key(), now, SERVER_LIFE, ExtendedKeyUsageOID.SERVER_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        return KeyPair(key, builder.sign(self.key, hashes.SHA256()))

    def login(self, name: str, now: datetime, life: timedelta) -> KeyPair:
        """A new key with a certificate that logs in as `name`."""
        key = ec.generate_private_key(ec.SECP256R1())
        return KeyPair(key, self.certify(name, key.public_key(), now, life))

    def certify(self, name: str, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta) -> x509.Certificate:
        """A certificate with which the holder of `key` logs in as `name`."""
        builder = _leaf(self, name, key, now, life, ExtendedKeyUsageOID.CLIENT_AUTH)
        return builder.sign(self.key, hashes.SHA256())

    def revocation_list(self, serials: Iterable[int], now: datetime, previous: bytes | None) -> bytes:
        """A list of certificates that are not valid any more, in PEM form, newer than `previous`."""
        updated = now.replace(microsecond=0) - LIST_BACKDATED
        if previous is not None:
            last = x509.load_pem_x509_crl(previous).last_update_utc
            updated = max(updated, last + timedelta(seconds=1))
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(updated).next_update(now + LIST_LIFE)
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(updated)
            builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def revoked_serials(revocation_list: bytes) -> set[int]:
    """The serial numbers on a list in PEM form."""
    return {revoked.serial_number for revoked in x509.load_pem_x509_crl(revocation_list)}


def is_aging(revocation_list: bytes, now: datetime) -> bool:
    """Whether a list in PEM form has lived for half of its life."""
    expires = x509.load_pem_x509_crl(revocation_list).next_update_utc
    return expires is None or expires - now < LIST_LIFE / 2


def utc(ms: int) -> datetime:
    """A time in ms since 1970 as the library wants it."""
    return datetime.fromtimestamp(ms / 1000, UTC)


def _leaf(
    issuer: Authority,
    name: str,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    life: timedelta,
    use: x509.ObjectIdentifier,
) -> x509.CertificateBuilder:
    builder = _builder(name, issuer.certificate.subject, key, now, life)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return builder.add_extension(signer, critical=False)


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(name)).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - BACKDATED).not_valid_after(now + life)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
