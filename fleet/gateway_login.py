"""The controller's own client at the broker, with which it asks nodes for who comes over HTTP.

It is a client like every other: it asks in its own name and reads its own answers, so the controller reads no prompts
but those that it was sent itself. Its id is reserved, its certificate lives as long as others' and is renewed here.
"""

from datetime import timedelta

import structlog
from cryptography import x509

from contract.enrolment import CERTIFICATE_LIFE_MS
from fleet.authority import utc
from fleet.database import identities
from fleet.database.store import Database
from fleet.folder import Folder, replace_private
from fleet.rights import GATEWAY
from fleet.signing_request import key_digest

log = structlog.get_logger()


def renew_gateway(folder: Folder, database: Database, now_ms: int) -> bool:
    """Makes the certificate when there is none, or when half of its life is over.

    The record comes first: a certificate that nobody knows of could not be revoked.

    Returns:
        Whether there is a new one.
    """
    if _is_good(folder, database, now_ms):
        return False
    life = timedelta(milliseconds=CERTIFICATE_LIFE_MS)
    pair = folder.authority("client").login(GATEWAY, utc(now_ms), life)
    serial, expires_ms = pair.certificate.serial_number, now_ms + CERTIFICATE_LIFE_MS
    with database.write() as connection:
        if identities.find_identity(connection, GATEWAY) is None:
            identities.add_identity(connection, GATEWAY, "client", now_ms)
        identities.revoke_certificates(connection, GATEWAY, now_ms)
        identities.set_key(connection, GATEWAY, key_digest(pair.key.public_key()))
        identities.add_certificate(connection, serial, GATEWAY, now_ms, expires_ms)
        identities.write_audit(connection, now_ms, "controller", "gateway.renew", GATEWAY, f"certificate {serial:x}")
    replace_private(folder.gateway_pem, pair.key_pem + pair.certificate_pem)
    log.info("made a certificate for the gateway", expires_ms=expires_ms)
    return True


def _is_good(folder: Folder, database: Database, now_ms: int) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(folder.gateway_pem.read_bytes())
    except (FileNotFoundError, ValueError):  # an older folder
        return False
    with database.read() as connection:
        if identities.is_revoked(connection, certificate.serial_number):
            return False
    return certificate.not_valid_after_utc - utc(now_ms) > timedelta(milliseconds=CERTIFICATE_LIFE_MS / 2)
