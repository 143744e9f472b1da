"""`fleet why` on messages as nodes send them: each fault comes in through the intake, and its cause comes first."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from contract.enrolment import DAY_MS
from contract.presence import NodeState
from contract.topics import NodeStatus
from fleet.api.steering import WishChange
from fleet.causes import causes
from fleet.database import identities as rows
from fleet.rules import RULES
from tests.fakes.headquarters import BUSY, FIT, START_MS, Headquarters

HOUR_MS = 3600 * 1000


@pytest.fixture
def headquarters(database_url: str) -> Iterator[Headquarters]:
    """A controller that knows a node n1 which is well, and its neighbours."""
    made = Headquarters(database_url)
    with made.database.write() as connection:
        for name in ("n1", "n9"):
            rows.add_identity(connection, name, "node", START_MS - 90 * DAY_MS)
            rows.set_key(connection, name, "5a" * 32)
            rows.add_certificate(connection, 1 if name == "n1" else 9, name, START_MS - DAY_MS, START_MS + 4 * DAY_MS)
    for node in ("n1", "n2", "n3"):
        made.join(node, site="store-7")
    made.infer("n1", BUSY)
    yield made
    made.close()


def lose(h: Headquarters, node: str = "n1") -> None:
    """The broker publishes a node's will."""
    status = h.inventory.nodes[node].status
    assert status
    h.hear(NodeStatus(node), NodeState("lost", status.sess, status.ts))


def wish(h: Headquarters, **settings: Any) -> int:
    """Something is wished of n1."""
    return h.steering.wish(["n1"], WishChange(settings=settings or {"limits.queue": 32}), "test")[0].rev


def _broker_down(h: Headquarters) -> None:
    h.inventory.broker_down_since_ms = h.now_ms - 300_000
    lose(h)


def _revoked(h: Headquarters) -> None:
    with h.database.write() as connection:
        rows.revoke_identity(connection, "n1", h.now_ms)
    lose(h)


def _clock_wrong(h: Headquarters) -> None:
    h.sys("n1", FIT, ts=h.now_ms - 730 * DAY_MS)
    wish(h)
    h.event("n1", "document_refused", {"event": "document_from_future", "reason": "…"})


def _clock_known_to_be_wrong(h: Headquarters) -> None:
    """The node uses a floor in place of its clock, so its messages look right."""
    h.event("n1", "clock_wrong", {"off_s": -730 * 86_400})


def _certificate_expired(h: Headquarters) -> None:
    h.now_ms += 5 * DAY_MS
    lose(h)


def _site_down(h: Headquarters) -> None:
    for node in ("n1", "n2", "n3"):
        lose(h, node)


def _stopped(h: Headquarters) -> None:
    h.status("n1", "offline", sess=h.sess)
    h.now_ms += DAY_MS


def _disk_full(h: Headquarters) -> None:
    h.event("n1", "disk_low", {"free_mib": 3})
    h.report("n1", wish(h), "failed", error="cannot write")


def _no_memory(h: Headquarters) -> None:
    for number in range(5):
        h.event("n1", "engine_died", {"model": "smol@1", "restarts": number, "death": "killed"})
    h.sys("n1", replace(FIT, ram_available_mib=60, memory_stalled_percent=44.0, engine="starting"))


def _hot(h: Headquarters) -> None:
    h.sys("n1", replace(FIT, temperature_c=91.0, throttled_percent=70.0, queue=64))
    h.infer("n1", replace(BUSY, busy=200))


def _keeps_starting(h: Headquarters) -> None:
    for _ in range(6):
        h.status("n1")
        h.event("n1", "agent_started", {"versions": {"shoal": "0.1.0"}})


def _lost(h: Headquarters) -> None:
    lose(h)


def _silent(h: Headquarters) -> None:
    h.now_ms += HOUR_MS


def _untrusted_key(h: Headquarters) -> None:
    wish(h)
    h.event("n1", "document_refused", {"event": "document_key_unknown", "reason": "…"})


def _revision_reused(h: Headquarters) -> None:
    h.event("n1", "document_refused", {"event": "document_revision_reused", "reason": "…"})


def _no_model(h: Headquarters) -> None:
    h.status("n1", "degraded")
    h.card("n1", site="store-7", models=[])
    h.sys("n1", replace(FIT, models=0, engine=None))


def _crash_loop(h: Headquarters) -> None:
    for number in range(9):
        h.event("n1", "engine_died", {"model": "smol@1", "restarts": number, "death": "crash"})
    h.event("n1", "quarantined", {"kind": "request", "id": "r1", "death": "crash"})
    h.sys("n1", replace(FIT, engine="starting", quarantined=2))
    h.infer("n1", replace(BUSY, failed=9))


def _hangs(h: Headquarters) -> None:
    for number in range(4):
        h.event("n1", "engine_died", {"model": "smol@1", "restarts": number, "death": "stall"})
    h.infer("n1", replace(BUSY, busy=200))


def _model_broken(h: Headquarters) -> None:
    h.status("n1", "degraded")
    h.event("n1", "engine_state", {"model": "smol@1", "state": "broken", "problem": "wrong magic"})


def _update_rejected(h: Headquarters) -> None:
    gate = {"passed": False, "reasons": ["answer 1 is empty"]}
    h.report("n1", wish(h), "refused", error="cannot serve smol@2: answer 1 is empty", gate=gate)


def _wish_refused(h: Headquarters) -> None:
    h.report("n1", wish(h), "refused", error="cannot activate model 'big@1': this node has smol@1")


def _wish_failed(h: Headquarters) -> None:
    h.report("n1", wish(h), "rolled_back", error="cannot finish switching in 600000 ms")


def _wish_stuck(h: Headquarters) -> None:
    h.report("n1", wish(h), "switching", within_ms=30_000)
    h.now_ms += 200_000


def _wish_not_heard(h: Headquarters) -> None:
    wish(h)


def _other_work(h: Headquarters) -> None:
    h.sys("n1", replace(FIT, cpu_stalled_percent=80.0, queue=64))
    h.infer("n1", replace(BUSY, busy=200))


def _overloaded(h: Headquarters) -> None:
    h.sys("n1", replace(FIT, queue=64))


def _quarantine(h: Headquarters) -> None:
    h.sys("n1", replace(FIT, quarantined=1))


def _renewal_late(h: Headquarters) -> None:
    h.now_ms += 3 * DAY_MS
    h.sys("n1", FIT)


def _draining(h: Headquarters) -> None:
    h.status("n1", "draining", sess=h.sess)


Fault = Callable[[Headquarters], None]


def name_of(fault: Fault) -> str:
    """The cause that must be named."""
    return fault.__name__[1:]


FAULTS: tuple[Fault, ...] = (
    _broker_down, _revoked, _clock_wrong, _certificate_expired, _site_down, _stopped, _disk_full, _no_memory, _hot,
    _keeps_starting, _lost, _silent, _untrusted_key, _revision_reused, _no_model, _crash_loop, _hangs, _model_broken,
    _update_rejected, _wish_refused, _wish_failed, _wish_stuck, _wish_not_heard, _other_work, _overloaded, _quarantine,
    _renewal_late, _draining,
)  # fmt: skip


def test_a_node_that_is_well_has_no_cause(headquarters: Headquarters) -> None:
    """Nor has one that is asked about a heartbeat later."""
    assert headquarters.why("n1") == []
    headquarters.now_ms += 330_000
    assert headquarters.why("n1") == []


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_the_right_cause_comes_first(headquarters: Headquarters, fault: Fault) -> None:
    """Whatever else follows from the fault and was said too."""
    fault(headquarters)
    assert headquarters.why("n1")[0] == name_of(fault)


def test_a_node_that_knows_its_clock_to_be_wrong(headquarters: Headquarters) -> None:
    """It says so once, and goes by a floor from then on."""
    _clock_known_to_be_wrong(headquarters)
    assert headquarters.why("n1") == ["clock_wrong"]


def test_a_node_that_never_came(headquarters: Headquarters) -> None:
    """It is known from its enrolment alone."""
    assert headquarters.why("n9") == ["never_came"]


def test_a_node_that_has_not_enrolled(headquarters: Headquarters) -> None:
    """It has an id and a token, of which the end is told, also when it is over."""
    with headquarters.database.write() as connection:
        rows.add_identity(connection, "n8", "node", START_MS)
        rows.add_token(connection, "5b" * 32, "n8", START_MS, START_MS + HOUR_MS)
    summary = headquarters.inventory.summary()
    assert (summary.not_enrolled, summary.num_not_enrolled, summary.never_came) == (["n8"], 1, ["n9"])
    said = ("its token runs out in 60 min", "its token ran out 60 min ago")
    for line in said:
        (cause,) = causes(headquarters.inventory.evidence("n8"))
        assert (cause.name, cause.evidence) == ("not_enrolled", (line,))
        headquarters.now_ms += 2 * HOUR_MS


def test_every_rule_has_a_fault() -> None:
    """As messages, not only as values."""
    assert {name_of(fault) for fault in FAULTS} | {"never_came", "not_enrolled"} == {rule.name for rule in RULES}


def test_what_is_mended_is_no_cause_any_more(headquarters: Headquarters) -> None:
    """A later event, or a later measurement, takes the place of an older one."""
    _disk_full(headquarters)
    headquarters.now_ms += 1000
    headquarters.event("n1", "disk_ok", {"free_mib": 800})
    _model_broken(headquarters)
    headquarters.now_ms += 1000
    headquarters.event("n1", "engine_state", {"model": "smol@1", "state": "ready", "problem": ""})
    headquarters.status("n1")
    headquarters.report("n1", headquarters.documents("n1")[-1].rev)
    assert headquarters.why("n1") == []
