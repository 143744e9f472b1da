"""Quotas of clients on their way to the nodes: a signed document of each at the broker, which nodes read when they are
asked by that client.

What the broker keeps is the only record of what was published, so a broker that lost it, a restored database and a
change of keys need no case of their own: what is there is compared with what should be.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from contract.enrolment import DAY_MS
from contract.signed import key_id, sign
from contract.steering import Quota, Signed
from contract.topics import ClientQuota, Topic
from fleet.api.identities import Client
from fleet.database import identities
from fleet.database.store import Database

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

LIFE_MS = 30 * DAY_MS
LOOK_MS = 5000
SETTLE_MS = 3000  # after a connection: what the broker keeps is on its way


class Kept(Struct, frozen=True):
    """A document that the broker keeps, and who signed it."""

    quota: Quota
    signers: frozenset[str]


class ClientQuotas:
    """Compares and publishes. Safe to use from several threads."""

    def __init__(
        self,
        database: Database,
        keys: "Sequence[Ed25519PrivateKey]",
        post: Callable[[Topic, bytes], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._keys = keys
        self._signers = frozenset(key_id(key.public_key().public_bytes_raw()) for key in keys)
        self._post = post
        self._now_ms = now_ms
        self._kept: dict[str, Kept] = {}
        self._due_ms: int | None = None  # None: there was no connection yet
        self._lock = threading.Lock()

    def begin(self) -> None:
        """There is a new connection: the broker says now what it keeps."""
        with self._lock:
            self._kept, self._due_ms = {}, self._now_ms() + SETTLE_MS

    def heard(self, client: str, payload: bytes) -> None:
        """The broker keeps this. Only we may write there, so the signature is not looked at.

        Raises:
            msgspec.MsgspecError: it is no such document; it will be replaced.
        """
        with self._lock:
            self._kept.pop(client, None)
            if payload:
                signed = msgspec.json.decode(payload, type=Signed)
                quota = msgspec.json.decode(signed.payload, type=Quota)
                self._kept[client] = Kept(quota, frozenset(one.keyid for one in signed.signatures))

    def sync(self) -> None:
        """Publishes what is not at the broker as it should be. Called often, looks now and then.

        Raises:
            SQLAlchemyError: the database does not say.
        """
        with self._lock:
            now_ms = self._now_ms()
            if self._due_ms is None or now_ms < self._due_ms:
                return
            self._due_ms = now_ms + LOOK_MS
            with self._database.read() as connection:
                clients = {one.id: one for one in identities.list_clients(connection) if one.revoked_ms is None}
            for name in self._kept.keys() - clients.keys():
                if self._post(ClientQuota(name), b""):
                    del self._kept[name]
            for client in clients.values():
                if not self._is_current(client, now_ms):
                    self._publish(client, now_ms)

    def _is_current(self, client: Client, now_ms: int) -> bool:
        limits, kept = (client.requests_per_minute, client.tokens_per_day), self._kept.get(client.id)
        if kept is None:
            return limits == (None, None)
        same = limits == (kept.quota.requests_per_minute, kept.quota.tokens_per_day)
        return same and kept.signers == self._signers and kept.quota.exp > now_ms + LIFE_MS // 2

    def _publish(self, client: Client, now_ms: int) -> None:
        kept = self._kept.get(client.id)
        quota = Quota(
            client=client.id,
            rev=max(now_ms, kept.quota.rev + 1 if kept else 0),  # also when our clock was set back
            issued=now_ms,
            exp=now_ms + LIFE_MS,
            requests_per_minute=client.requests_per_minute,
            tokens_per_day=client.tokens_per_day,
        )
        if self._post(ClientQuota(client.id), sign(quota, self._keys)):
            self._kept[client.id] = Kept(quota, self._signers)
