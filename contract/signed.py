"""Signed documents: what the controller wishes, in a form that a node can check with nothing but a public key.

A document (`Desired`, `Policy`, `Quota`) travels as `Signed`: its JSON text and Ed25519 signatures over exactly the
bytes of that text. Pure: bytes, keys and times in; a document or a `Refusal` out.

What always holds:

- Nothing inside the text is looked at before a signature of a trusted key over it was found good.
- The bytes are those that the signer made: one bit changed anywhere, white space too, is another document and refused.
- For one addressee revisions never go down, and one revision is one text for ever.
- An expired document changes nothing. It stops no serving: that what is in force stays in force is the caller's part.
- Where the device's clock is not credible, a floor is the time: it has certainly passed. What has expired by it has
  expired, and nothing can be said to lie in the future.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import msgspec
from msgspec import Struct

from contract.limits import MAX_DOCUMENT_BYTES
from contract.steering import Desired, Policy, Quota, Signature, Signed

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

# Clocks that run in local time are off by up to 14 hours. What is issued further ahead than this comes from a
# controller whose clock is wrong; accepting it would raise the floor, which would then expire what is good.
TOLERANCE_MS = 24 * 3600 * 1000

KEY_ID_DIGITS = 32

Document = TypeVar("Document", Desired, Policy, Quota)

RefusalEvent = Literal[
    "document_oversize", "document_malformed", "document_key_unknown", "document_key_revoked", "document_forged",
    "document_misaddressed", "document_outdated", "document_revision_reused", "document_expired",
    "document_from_future",
]  # fmt: skip


class Trust(Struct, frozen=True):
    """The keys whose signatures count: raw Ed25519 public keys by `key_id`, and ids that count no more."""

    keys: Mapping[str, bytes]
    revoked: frozenset[str] = frozenset()


class Mark(Struct, frozen=True):
    """The last accepted document of an addressee: what a node keeps so that revisions never go down."""

    rev: int
    sha256: str


class Time(Struct, frozen=True):
    """What a node knows of the time: its clock, or if that is not credible, a floor (build date, last signed time)."""

    now_ms: int
    is_credible: bool = True


class Accepted(Struct, Generic[Document], frozen=True):
    """A document that holds from now on. `mark` is stored before it is acted on; `issued` is a floor of the time."""

    document: Document
    mark: Mark
    is_new: bool  # False: the node has it already; brokers deliver a retained document at each connection


class Refusal(Struct, frozen=True):
    """Why a document changes nothing: a fixed word for the event, and a sentence for people."""

    event: RefusalEvent
    reason: str


def key_id(public_key: bytes) -> str:
    """The id of a raw public key: it follows from the key, so two keys cannot be mistaken for each other."""
    return hashlib.sha256(public_key).hexdigest()[:KEY_ID_DIGITS]


def sign(document: Desired | Policy | Quota, keys: Sequence["Ed25519PrivateKey"]) -> bytes:
    """The signed document as it goes on the wire. The same document and keys give the same bytes.

    During a change of keys both sign, so that nodes that do not know the new one yet still follow.
    """
    return sign_text(msgspec.json.encode(document, order="deterministic"), keys)


def sign_text(text: bytes, keys: Sequence["Ed25519PrivateKey"]) -> bytes:
    """The same for a document that was written before: another version of this program would write it differently."""
    signatures = [Signature(key_id(key.public_key().public_bytes_raw()), key.sign(text).hex()) for key in keys]
    return msgspec.json.encode(Signed(text.decode(), signatures))


def verify(
    data: bytes, kind: type[Document], addressee: str, last: Mark | None, trust: Trust, time: Time
) -> Accepted[Document] | Refusal:
    """Whether a node takes a document.

    Args:
        data: the payload as it came.
        kind: what the topic carries.
        addressee: the node's own id for `Desired`; for the others the group or client that the topic names.
        last: what was accepted last for this addressee.
        trust: the keys that count.
        time: as well as it is known.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        return _refuse("document_oversize", f"it has {len(data)} bytes, at most {MAX_DOCUMENT_BYTES} are read")
    try:
        signed = msgspec.json.decode(data, type=Signed)
        text = signed.payload.encode()
        is_exact = msgspec.json.encode(signed) == data
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        return _refuse("document_malformed", f"{error}")
    if not is_exact:
        return _refuse("document_malformed", "its envelope is not written as the signer writes it")
    if refusal := _check_signatures(text, signed.signatures, trust):
        return refusal
    try:
        document = msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        return _refuse("document_malformed", f"its text is no {kind.__name__}: {error}")
    mark = Mark(document.rev, hashlib.sha256(text).hexdigest())
    return _judge(document, mark, addressee, last, time) or Accepted(document, mark, is_new=mark != last)


def _check_signatures(text: bytes, signatures: Sequence[Signature], trust: Trust) -> Refusal | None:
    """One good signature is enough, those of unknown and revoked keys count for nothing, and a bad one is an attack."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    counting = [one for one in signatures if one.keyid in trust.keys and one.keyid not in trust.revoked]
    if not counting:
        ids = ", ".join(one.keyid for one in signatures)
        if any(one.keyid in trust.revoked for one in signatures):
            return _refuse("document_key_revoked", f"its key {ids} was revoked; sign it with one that holds")
        return _refuse(
            "document_key_unknown", f"this node trusts no key {ids}; enrol it again if the fleet's key is new"
        )
    for one in counting:
        try:
            Ed25519PublicKey.from_public_bytes(trust.keys[one.keyid]).verify(bytes.fromhex(one.sig), text)
        except (InvalidSignature, ValueError):
            return _refuse("document_forged", f"the signature of key {one.keyid} does not fit it")
        if bytes.fromhex(one.sig).hex() != one.sig:  # capitals and spaces would be a second way to write it
            return _refuse("document_malformed", f"the signature of key {one.keyid} is not plain hexadecimal")
    return None


def _judge(
    document: Desired | Policy | Quota, mark: Mark, addressee: str, last: Mark | None, time: Time
) -> Refusal | None:
    """What speaks against a document that is genuine."""
    if (meant := _addressee(document)) != addressee:
        return _refuse("document_misaddressed", f"it is for {meant!r}, not for {addressee!r}")
    if last and mark.rev < last.rev:
        return _refuse("document_outdated", f"revision {mark.rev} is older than {last.rev}, which was accepted")
    if last and mark.rev == last.rev and mark.sha256 != last.sha256:
        return _refuse("document_revision_reused", f"revision {mark.rev} was accepted with another text")
    clock = "the clock of this node; set it if that is wrong" if time.is_credible else "what has certainly passed"
    if document.exp <= time.now_ms:
        return _refuse("document_expired", f"it expired {time.now_ms - document.exp} ms ago by {clock}")
    ahead_ms = document.issued - time.now_ms
    if time.is_credible and ahead_ms > TOLERANCE_MS:
        return _refuse("document_from_future", f"it was issued {ahead_ms} ms ahead of {clock}")
    return None


def _addressee(document: Desired | Policy | Quota) -> str:
    match document:
        case Desired():
            return document.node
        case Policy():
            return document.group
        case Quota():
            return document.client


def _refuse(event: RefusalEvent, why: str) -> Refusal:
    return Refusal(event, f"cannot accept the document: {why}")
