"""`fleet why`: the right cause comes first, and a node that is well has none."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleet.causes import causes
from fleet.evidence import Evidence
from fleet.rules import LAST_RESORT, RULES

HOUR, DAY = 3600.0, 86_400.0
WELL = Evidence(
    node="n1", seen_s=20, enrolled_s=90 * DAY, certificate_left_s=4 * DAY, site="store-7", site_nodes=3, starts=1,
    clock_ahead_s=0.4, desired_rev=5, disk_free_mib=9000, ram_mib=4096, ram_available_mib=1800,
    memory_stalled_percent=0.3, cpu_stalled_percent=8, temperature_c=61, throttled_percent=0, num_models=1,
    engine="ready", queue=2, queue_limit=64, answers={200: 300, 408: 2, 429: 3}, reported_rev=5, phase="confirmed",
)  # fmt: skip
LOST = replace(WELL, state="lost", seen_s=2 * HOUR)

# What each fault looks like from the controller, with all that follows from it.
FAULTS: dict[str, Evidence] = {
    "broker_down": replace(LOST, broker_down_s=300, site_nodes_lost=3),
    "revoked": replace(LOST, is_revoked=True),
    "not_enrolled": replace(WELL, state=None, seen_s=None, is_enrolled=False, token_left_s=600),
    "never_came": replace(WELL, state=None, seen_s=None, reported_rev=None, phase=None, num_models=None, engine=None),
    "clock_wrong": replace(WELL, clock_ahead_s=-730 * DAY, document_refusals=("document_from_future",), reported_rev=4),
    "certificate_expired": replace(LOST, certificate_left_s=-3 * HOUR),
    "site_down": replace(LOST, site_nodes_lost=3),
    "stopped": replace(WELL, state="offline", seen_s=3 * DAY),
    "disk_full": replace(WELL, disk_free_mib=3, answers={200: 10, 500: 40}, phase="failed", error="cannot write"),
    "no_memory": replace(WELL, deaths={"killed": 5}, ram_available_mib=60, memory_stalled_percent=44),
    "hot": replace(WELL, temperature_c=91, throttled_percent=70, answers={200: 30, 429: 40}, queue=64),
    "keeps_starting": replace(WELL, starts=30, engine="starting"),
    "lost": LOST,
    "silent": replace(WELL, seen_s=HOUR),
    "untrusted_key": replace(WELL, document_refusals=("document_key_unknown",), reported_rev=4),
    "revision_reused": replace(WELL, document_refusals=("document_revision_reused",)),
    "no_model": replace(WELL, state="degraded", num_models=0, engine=None, phase="refused", error="cannot activate it"),
    "crash_loop": replace(WELL, deaths={"crash": 9}, engine="starting", quarantined=2, answers={200: 9, 500: 5}),
    "hangs": replace(WELL, deaths={"stall": 4}, queue=64, answers={200: 4, 429: 60}),
    "model_broken": replace(WELL, state="degraded", engine="broken", engine_problem="wrong magic", phase="rolled_back"),
    "update_rejected": replace(WELL, phase="refused", error="bad", gate_reasons=("answer 1 is empty",)),
    "wish_refused": replace(WELL, phase="refused", error="cannot activate model 'big@1': this node has small@1"),
    "wish_failed": replace(WELL, phase="rolled_back", error="cannot finish switching in 600000 ms"),
    "wish_stuck": replace(WELL, phase="switching", phase_late_s=900, reported_rev=4),
    "wish_not_heard": replace(WELL, reported_rev=4),
    "other_work": replace(WELL, cpu_stalled_percent=80, queue=64, answers={200: 30, 429: 30}),
    "overloaded": replace(WELL, queue=64, answers={200: 30, 429: 30}),
    "quarantine": replace(WELL, quarantined=1),
    "renewal_late": replace(WELL, certificate_left_s=0.5 * DAY),
    "draining": replace(WELL, state="draining"),
}
DEPTH = [rule.name for rule in RULES]
HIDING = {rule.name for rule in RULES if rule.hides}
AWAY = {
    "broker_down",
    "revoked",
    "not_enrolled",
    "never_came",
    "certificate_expired",
    "site_down",
    "stopped",
    "lost",
    "silent",
}
SPOKEN_ONLY = set(DEPTH[DEPTH.index("no_model") :]) - {"renewal_late"}  # holds only of a node that is there


def names(evidence: Evidence) -> list[str]:
    """Of the causes, in order."""
    return [cause.name for cause in causes(evidence)]


def changed(evidence: Evidence) -> set[str]:
    """The fields that differ from those of a node that is well."""
    return {name for name in Evidence.__struct_fields__ if getattr(evidence, name) != getattr(WELL, name)}


def combine(one: Evidence, other: Evidence) -> Evidence:
    """A node with both faults; a field that both change is as the first says."""
    fields = {name: getattr(other, name) for name in changed(other)} | {n: getattr(one, n) for n in changed(one)}
    return replace(WELL, **fields)


def test_a_node_that_is_well_has_no_cause() -> None:
    """Nor one of which nothing but its presence is known."""
    assert causes(WELL) == []
    assert causes(Evidence(node="n1")) == []


def test_every_cause_has_a_fault() -> None:
    """And none is forgotten here."""
    assert list(FAULTS) == DEPTH


@pytest.mark.parametrize("name", FAULTS)
def test_the_right_cause_comes_first(name: str) -> None:
    """With what shows it, and with what to do, though its consequences are seen too."""
    first = causes(FAULTS[name])[0]
    assert first.name == name
    assert all(first.evidence)
    assert "{" not in first.advice


@pytest.mark.parametrize(("deep", "shallow"), list(itertools.combinations(DEPTH, 2)))
def test_of_two_faults_the_deeper_comes_first(deep: str, shallow: str) -> None:
    """Whatever of the other is seen beside it."""
    if deep in AWAY and shallow in AWAY | SPOKEN_ONLY:
        return  # a node is away for one reason at a time, and then says nothing
    found = names(combine(FAULTS[deep], FAULTS[shallow]))
    assert found[0] == deep
    if deep in HIDING:
        assert found == [deep]
    elif shallow not in LAST_RESORT and not changed(FAULTS[deep]) & changed(FAULTS[shallow]):
        assert shallow in found


def test_without_a_broker_nothing_else_is_said() -> None:
    """All that is known is from before."""
    for evidence in FAULTS.values():
        assert names(replace(evidence, broker_down_s=10)) == ["broker_down"]


def test_what_a_lost_node_said_last_can_explain_it() -> None:
    """With how long ago it said so; what it said of its work does not matter any more."""
    full = replace(LOST, disk_free_mib=0, queue=64, phase="failed")
    (cause,) = causes(full)
    assert cause.name == "disk_full"
    assert cause.evidence == ("0 MiB are free on its disk (told 2 h ago)",)


def test_failures_show_a_full_disk_too() -> None:
    """As telemetry counts them: all 5xx in one column, 507 among them."""
    assert causes(FAULTS["disk_full"])[0].evidence[1] == "40 of 50 requests failed lately (5xx)"


def test_one_neighbour_that_is_there_clears_the_site() -> None:
    """And a node alone on its site is not its site."""
    assert names(replace(LOST, site_nodes_lost=2)) == ["lost"]
    assert names(replace(LOST, site_nodes=0)) == ["lost"]


@pytest.mark.parametrize(
    ("evidence", "bound"),
    [
        (replace(WELL, seen_s=209), replace(WELL, seen_s=211)),
        (replace(WELL, seen_s=569, keepalive_s=300), replace(WELL, seen_s=571, keepalive_s=300)),
        (replace(WELL, clock_ahead_s=DAY), replace(WELL, clock_ahead_s=DAY + 1)),
        (replace(WELL, answers={200: 95, 429: 5}), replace(WELL, answers={200: 94, 429: 6})),
        (replace(WELL, deaths={"crash": 2}), replace(WELL, deaths={"crash": 3})),
    ],
)
def test_a_little_is_no_fault(evidence: Evidence, bound: Evidence) -> None:
    """One crash, a slow heartbeat, some refusals under load: only above a bound are they a cause."""
    assert names(evidence) == []
    assert len(names(bound)) == 1


@given(st.lists(st.sampled_from(list(FAULTS.values())), min_size=1, max_size=4))
def test_causes_come_in_order_of_depth_and_once(faults: list[Evidence]) -> None:
    """Whatever is wrong at the same time, there is an answer."""
    evidence = faults[0]
    for other in faults[1:]:
        evidence = combine(evidence, other)
    found = names(evidence)
    assert found == sorted(set(found), key=DEPTH.index)
    assert found
