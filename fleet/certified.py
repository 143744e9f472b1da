"""Which node a TLS connection is from, by the certificate that it showed."""

from collections.abc import Callable

from cryptography import x509
from cryptography.x509.oid import NameOID

from fleet.authority import utc
from fleet.database import identities as rows
from fleet.database.store import Database
from fleet.errors import EnrolmentError


class Certificates:
    """Looks certificates up. TLS has verified who signed them, but not their dates (fleet/web/server.py)."""

    def __init__(self, database: Database, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._now_ms = now_ms

    def node(self, der: bytes | None) -> str:
        """The node that a certificate belongs to.

        Raises:
            EnrolmentError: there is none, or it is a client's, expired or revoked.
        """
        if der is None:
            raise EnrolmentError("no_certificate", "cannot let you in: show a node's certificate, in TLS")
        presented = x509.load_der_x509_certificate(der)
        name = str(presented.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        with self._database.read() as connection:
            identity = rows.find_identity(connection, name)
            revoked = rows.is_revoked(connection, presented.serial_number)
        if identity is None or identity.role != "node":
            raise EnrolmentError("no_node", f"cannot let {name!r} in: it is no node")
        if revoked or identity.revoked_ms is not None:
            raise EnrolmentError("revoked", f"cannot let {name!r} in: it is revoked; enrol it with a new token")
        if presented.not_valid_after_utc < utc(self._now_ms()):
            raise EnrolmentError("expired", f"cannot let {name!r} in: its certificate has expired; renew it")
        return name
