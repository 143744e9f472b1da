"""Signed documents: who may say what a node is to do, to whom, and until when."""

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from contract.deadlines import CLOCK_FLOOR_MS
from contract.limits import MAX_DOCUMENT_BYTES
from contract.signed import TOLERANCE_MS, Accepted, Mark, Refusal, Time, Trust, key_id, sign, verify
from contract.steering import Desired, Policy, Signature, Signed

DAY_MS = 24 * 3600 * 1000
YEAR_MS = 365 * DAY_MS
NOW = CLOCK_FLOOR_MS + 100 * DAY_MS
TIME = Time(NOW)
KEY, NEXT_KEY, FOREIGN_KEY = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2, 3))


def public(key: Ed25519PrivateKey) -> bytes:
    """The raw public key."""
    return key.public_key().public_bytes_raw()


def id_of(key: Ed25519PrivateKey) -> str:
    """The id that signatures of a key carry."""
    return key_id(public(key))


TRUST = Trust({id_of(key): public(key) for key in (KEY, NEXT_KEY)})


def desired(**changes: Any) -> Desired:
    """One for n1 that is good for a week."""
    fields: dict[str, Any] = {"node": "n1", "rev": 7, "issued": NOW, "exp": NOW + 7 * DAY_MS, "model": "m@1"}
    return Desired(**fields | changes)


def accept(document: Desired, last: Mark | None = None, time: Time = TIME) -> Accepted[Desired]:
    """What node n1 accepts."""
    found = verify(sign(document, [KEY]), Desired, "n1", last, TRUST, time)
    assert isinstance(found, Accepted), found
    return found


def refuse(data: bytes, last: Mark | None = None, trust: Trust = TRUST, time: Time = TIME) -> str:
    """The event with which node n1 refuses."""
    found = verify(data, Desired, "n1", last, trust, time)
    assert isinstance(found, Refusal), found
    assert found.reason.startswith("cannot accept the document: ")
    return found.event


def signed_text(text: str, key: Ed25519PrivateKey = KEY) -> bytes:
    """Any text, well signed."""
    return msgspec.json.encode(Signed(text, [Signature(id_of(key), key.sign(text.encode()).hex())]))


def test_what_was_signed_comes_out() -> None:
    """With the mark to remember."""
    document = desired(adapters=["a@1"], settings={"limits.queue": 8})
    found = accept(document)
    assert (found.document, found.mark.rev, found.is_new) == (document, 7, True)


def test_signing_is_repeatable() -> None:
    """A controller that dies after signing signs the same bytes again, so a revision has one text."""
    one = desired(settings={"a": 1, "b": 2})
    other = desired(settings={"b": 2, "a": 1})
    assert sign(one, [KEY]) == sign(other, [KEY])


def test_the_same_document_again_is_accepted_and_not_new() -> None:
    """Brokers deliver a retained document at each connection."""
    mark = accept(desired()).mark
    assert not accept(desired(), mark).is_new


def test_policies_are_bound_to_their_group() -> None:
    """And are no desired state of a node that is called like the group."""
    policy = Policy(group="stores", rev=1, issued=NOW, exp=NOW + DAY_MS)
    data = sign(policy, [KEY])
    found = verify(data, Policy, "stores", None, TRUST, TIME)
    assert isinstance(found, Accepted)
    assert found.document == policy
    assert isinstance(verify(data, Policy, "offices", None, TRUST, TIME), Refusal)
    assert isinstance(verify(data, Desired, "stores", None, TRUST, TIME), Refusal)


def test_genuine_documents_that_do_not_hold_are_refused() -> None:
    """Each with its own event."""
    mark = accept(desired()).mark
    assert refuse(sign(desired(node="n2"), [KEY])) == "document_misaddressed"
    assert refuse(sign(desired(rev=6), [KEY]), mark) == "document_outdated"
    assert refuse(sign(desired(model="m@2"), [KEY]), mark) == "document_revision_reused"
    assert refuse(sign(desired(exp=NOW), [KEY])) == "document_expired"
    assert refuse(sign(desired(issued=NOW + TOLERANCE_MS + 1), [KEY])) == "document_from_future"
    assert accept(desired(issued=NOW + TOLERANCE_MS)).is_new


def test_what_a_node_has_expires_too() -> None:
    """Expired stops changes, so convergence towards it ends as well."""
    mark = accept(desired()).mark
    assert refuse(sign(desired(), [KEY]), mark, time=Time(NOW + 8 * DAY_MS)) == "document_expired"


def test_keys_that_do_not_count() -> None:
    """Unknown ones, revoked ones, and a signature under another key's name."""
    foreign = sign(desired(), [FOREIGN_KEY])
    assert refuse(foreign) == "document_key_unknown"
    assert refuse(foreign.replace(id_of(FOREIGN_KEY).encode(), id_of(KEY).encode())) == "document_forged"
    revoked = Trust(TRUST.keys, frozenset([id_of(KEY)]))
    assert refuse(sign(desired(), [KEY]), trust=revoked) == "document_key_revoked"


def test_a_change_of_keys_leaves_nobody_behind() -> None:
    """Signed by both, it is accepted by who knows only the old, only the new, or has the old one revoked."""
    both = sign(desired(), [KEY, NEXT_KEY])
    for trust in (
        Trust({id_of(KEY): public(KEY)}),
        Trust({id_of(NEXT_KEY): public(NEXT_KEY)}),
        Trust(TRUST.keys, frozenset([id_of(KEY)])),
    ):
        assert isinstance(verify(both, Desired, "n1", None, trust, TIME), Accepted)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"null", b"\xff\xfe", b'{"payload":"","signatures":[]}', b'{"payload":"\\ud800","signatures":[]}',
        b'{"x":' + b"[" * 20_000, signed_text("{}"), signed_text("[" * 20_000), signed_text("no JSON"),
        signed_text('{"node":"n1","rev":0,"issued":0,"exp":1}'),
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """Whether it is no envelope, or holds no document though it is well signed."""
    assert refuse(data) == "document_malformed"


def test_large_ones_are_not_even_read() -> None:
    """Before it is known who wrote it, a node spends nothing on it."""
    assert refuse(b"x" * (MAX_DOCUMENT_BYTES + 1)) == "document_oversize"
    assert refuse(sign(desired(settings={"x": "y" * MAX_DOCUMENT_BYTES}), [KEY])) == "document_oversize"


def test_fields_of_later_versions_are_ignored() -> None:
    """A newer controller can say more to a node that does not know it yet."""
    text = json.dumps(msgspec.to_builtins(desired()) | {"mood": {"is": "good"}})
    found = verify(signed_text(text), Desired, "n1", None, TRUST, TIME)
    assert isinstance(found, Accepted)
    assert found.document == desired()


def test_a_clock_that_is_not_credible_leaves_a_floor() -> None:
    """Two years slow or fast: nothing is from the future, and what had expired by the floor has expired."""
    floor = Time(NOW - 30 * DAY_MS, is_credible=False)
    assert accept(desired(), time=floor).is_new
    old = desired(issued=NOW - 60 * DAY_MS, exp=NOW - 31 * DAY_MS)
    assert refuse(sign(old, [KEY]), time=floor) == "document_expired"


@pytest.mark.parametrize(
    ("off_ms", "event"), [(2 * YEAR_MS, "document_expired"), (-50 * DAY_MS, "document_from_future")]
)
def test_a_wrong_clock_that_seems_right_asks_to_be_set(off_ms: int, event: str) -> None:
    """It cannot be told from an old document that somebody kept, so nothing changes; the reason names the clock."""
    found = verify(sign(desired(), [KEY]), Desired, "n1", None, TRUST, Time(NOW + off_ms))
    assert isinstance(found, Refusal)
    assert found.event == event
    assert "set it" in found.reason


GENUINE = sign(desired(settings={"log.level": "debug"}), [KEY])


def test_any_bit_that_changes_is_refused() -> None:
    """In the text, the signature (capitals are one bit away), the names and the punctuation."""
    for place in range(len(GENUINE)):
        for bit in range(8):
            changed = bytearray(GENUINE)
            changed[place] ^= 1 << bit
            refuse(bytes(changed))


@pytest.mark.parametrize(
    "envelope",
    [
        GENUINE + b"\n", b" " + GENUINE, GENUINE.replace(b":", b": ", 1), GENUINE.replace(b"payload", b"p\\u0061yload"),
        GENUINE.replace(b"{", b'{"x":1,', 1), GENUINE.replace(b"{", b'{"payload":"",', 1),
    ],
)  # fmt: skip
def test_there_is_one_way_to_write_an_envelope(envelope: bytes) -> None:
    """White space, escapes, further fields and repeated keys change no meaning and are refused all the same."""
    assert refuse(envelope) == "document_malformed"


@given(place=st.integers(0, len(GENUINE)), more=st.binary(min_size=1, max_size=3), cut=st.integers(0, 3))
def test_nothing_can_be_put_in_or_cut_out(place: int, more: bytes, cut: int) -> None:
    """Wherever it is, and whatever."""
    changed = GENUINE[:place] + more + GENUINE[place + cut :]
    if changed != GENUINE:
        refuse(changed)


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from(["m@1", "m@2"])), max_size=12))
def test_revisions_never_go_down_and_mean_one_text(arrivals: list[tuple[int, str]]) -> None:
    """Whatever comes, in whatever order."""
    last: Mark | None = None
    texts: dict[int, str] = {}
    for rev, model in arrivals:
        found = verify(sign(desired(rev=rev, model=model), [KEY]), Desired, "n1", last, TRUST, TIME)
        if isinstance(found, Accepted):
            assert last is None or rev >= last.rev
            assert texts.setdefault(rev, model) == model
            assert found.is_new == (last is None or rev > last.rev)
            last = found.mark
        else:
            assert last is not None
            assert rev < last.rev or texts[rev] != model
