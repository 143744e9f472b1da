"""Which faults of the engine bring what into quarantine, how it comes out, and that a restart changes nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.death import Death, death_of
from agent.quarantine import MAX_ITEMS, MAX_STRIKES, Item, Quarantine, QuarantineError, parts_of
from agent.store.database import Database
from agent.store.quarantine import Quarantined
from contract.errors import Refused
from contract.requests import NamedSchema, Request, ResponseFormat

FAULTS = [Death.CRASH, Death.STALL, Death.NONSENSE]


def _ask(prompt: str = "a", *, schema: dict[str, Any] | None = None, **fields: Any) -> Request:
    form = None if schema is None else ResponseFormat("json_schema", NamedSchema(schema))
    return Request(prompt=prompt, response_format=form, **fields)


def _refused(quarantine: Quarantine, request: Request) -> str | None:
    try:
        quarantine.check(request)
    except Refused as no:
        assert (no.status, no.code) == (500, "quarantined")
        return no.message
    return None


def _condemn(quarantine: Quarantine, request: Request, death: Death = Death.CRASH) -> None:
    for _ in range(2):
        quarantine.strike(request, death, alone=True)


@pytest.mark.parametrize(
    ("code", "death"),
    [
        (-11, "crash"), (-6, "crash"), (-4, "crash"), (-7, "crash"), (-8, "crash"), (-31, "crash"), (70, "crash"),
        (-9, "killed"), (-15, "killed"), (-1, "killed"), (0, "ended"), (1, "ended"), (None, "ended"),
    ],
)  # fmt: skip
def test_exit_codes_tell_a_fault_from_a_kill(code: int | None, death: str) -> None:
    """Signals of faulty code and the engine's own exit code are crashes; SIGKILL is somebody else's doing."""
    assert death_of(code).value == death
    assert death_of(code).is_fault == (death == "crash")


@pytest.mark.parametrize("death", list(Death))
def test_two_faults_alone_condemn_a_request(death: Death) -> None:
    """The second time it is refused, whoever asks and with whatever id; other questions are not."""
    condemned: list[Item] = []
    quarantine = Quarantine(now_ms=lambda: 1_700_000_000_000, on_condemned=condemned.append)
    quarantine.strike(_ask(id="one"), death, alone=True)
    assert _refused(quarantine, _ask()) is None
    quarantine.strike(_ask(id="two", ttl_ms=5), death, alone=True)
    message = _refused(quarantine, _ask(id="three"))
    assert (message is not None) == (death in FAULTS)
    assert _refused(quarantine, _ask("b")) is None
    assert condemned == quarantine.items
    if message:
        (item,) = condemned
        assert message.startswith("cannot answer: this request is in quarantine since 2023-11-14T22:13:20Z ")
        assert f"`shoal-agent quarantine release {item.short_id}`" in message
        assert (item.kind, item.id, item.death) == ("request", _ask().digest().hex(), death.value)


def test_in_company_nobody_is_condemned() -> None:
    """Strikes beside others add up, but only one alone condemns."""
    quarantine = Quarantine()
    for _ in range(5):
        for prompt in ("a", "b"):
            quarantine.strike(_ask(prompt), Death.CRASH, alone=False)
    assert quarantine.items == []
    quarantine.strike(_ask("a"), Death.CRASH, alone=True)
    assert [item.id for item in quarantine.items] == [_ask("a").digest().hex()]


def test_an_answer_clears_a_request() -> None:
    """A crash long ago, with an answer since, does not count."""
    quarantine = Quarantine()
    for _ in range(5):
        quarantine.strike(_ask(), Death.CRASH, alone=True)
        quarantine.clear(_ask(id="other"))
    assert quarantine.items == []


@pytest.mark.parametrize("kind", ["grammar", "adapter"])
def test_what_two_fatal_requests_shared_is_condemned_itself(kind: str) -> None:
    """One fatal request is not enough, however often; nor is the same one with other ids."""
    used: dict[str, Any] = {"schema": {"type": "boolean"}} if kind == "grammar" else {"adapter": "home@1"}
    quarantine = Quarantine()
    for number in range(4):
        _condemn(quarantine, _ask(id=f"q{number}", **used))
    assert _refused(quarantine, _ask("innocent", **used)) is None
    _condemn(quarantine, _ask("b", **used), Death.STALL)
    assert [item.kind for item in quarantine.items] == ["request", "request", kind]
    message = _refused(quarantine, _ask("innocent", **used))
    assert message is not None
    assert ("its schema" if kind == "grammar" else "adapter 'home@1'") in message
    assert _refused(quarantine, _ask("innocent")) is None
    assert _refused(quarantine, _ask("innocent", schema={"type": "null"}, adapter="home@2")) is None


def test_a_grammar_is_its_schema_in_whatever_order() -> None:
    """The order of keys makes no other grammar; the base model is no adapter."""
    one, other = _ask(schema={"type": "object", "title": "x"}), _ask(schema={"title": "x", "type": "object"})
    assert parts_of(one) == parts_of(other)
    assert parts_of(_ask(adapter=None)).keys() == parts_of(_ask()).keys() == {"request"}


def test_release() -> None:
    """By id, by its first digits, or all. What is released runs, and one fault does not bring it back."""
    quarantine = Quarantine()
    for prompt in ("a", "b"):
        _condemn(quarantine, _ask(prompt, schema={"type": "boolean"}, adapter="home"))
    a, _, grammar, adapter = quarantine.items
    for wrong in ("", a.id[:5], "nothing", "hom"):
        with pytest.raises(QuarantineError, match=r"^cannot release"):
            quarantine.release(wrong)
    assert quarantine.release(grammar.id[:6]) == [grammar]
    assert quarantine.release("home") == [adapter]
    assert _refused(quarantine, _ask("c", schema={"type": "boolean"}, adapter="home")) is None
    _condemn(quarantine, _ask("d", schema={"type": "boolean"}, adapter="home"))
    assert [item.kind for item in quarantine.items] == ["request"] * 3  # a and b are not held against it any more
    assert [item.id for item in quarantine.release(a.short_id)] == [a.id]
    quarantine.strike(_ask("a", schema={"type": "boolean"}, adapter="home"), Death.CRASH, alone=True)
    assert _refused(quarantine, _ask("a", schema={"type": "boolean"}, adapter="home")) is None
    assert len(quarantine.release(None)) == 2
    assert quarantine.items == []
    assert quarantine.release(None) == []


def test_nothing_grows_without_end() -> None:
    """Neither strikes nor what is in quarantine."""
    quarantine = Quarantine()
    for number in range(MAX_STRIKES + 50):
        quarantine.strike(_ask(f"{number}"), Death.CRASH, alone=True)
    assert len(quarantine._strikes) == MAX_STRIKES
    for number in range(MAX_ITEMS + 50):
        _condemn(quarantine, _ask(f"c{number}"))
    assert len(quarantine.items) == MAX_ITEMS
    assert _refused(quarantine, _ask(f"c{MAX_ITEMS + 49}"))


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(list(Death)), st.booleans(), st.booleans()), max_size=60))
def test_only_who_killed_two_engines_is_condemned(story: list[tuple[int, Death, bool, bool]]) -> None:
    """Whatever happens: quarantined requests had two faults since their last answer, the last alone; nobody else is."""
    quarantine, strikes, guilty = Quarantine(), [0] * 6, set[int]()
    for number, death, alone, answered in story:
        request = _ask(f"p{number}", schema={"type": ["null", "boolean"][number % 2]})
        if answered:
            quarantine.clear(request)
            strikes[number] = 0
            continue
        quarantine.strike(request, death, alone=alone)
        strikes[number] += death.is_fault
        if death.is_fault and alone and strikes[number] >= 2:
            guilty.add(number)
            strikes[number] = 0
    assert {i for i in range(6) if any(item.id == _digest(i) for item in quarantine.items)} == guilty
    by_grammar = [len({i for i in guilty if i % 2 == odd}) >= 2 for odd in (0, 1)]
    assert sum(item.kind == "grammar" for item in quarantine.items) == sum(by_grammar)


def _digest(number: int) -> str:
    return _ask(f"p{number}", schema={"type": ["null", "boolean"][number % 2]}).digest().hex()


def test_what_is_stored_is_the_same_after_a_restart_and_holds_no_text(tmp_path: Path) -> None:
    """Everything comes back in its order, without a word of prompt or schema in the file."""
    database = Database(tmp_path)
    quarantine = Quarantine(now_ms=lambda: 5)
    for prompt in ("zanzibar one", "zanzibar two"):
        _condemn(quarantine, _ask(prompt, schema={"const": "zanzibar"}, adapter="home@1"))
    asyncio.run(Quarantined(database).keep(quarantine.items))
    database.close()
    again = Database(tmp_path)
    items = Quarantined(again).items()
    asyncio.run(Quarantined(again).keep([]))
    assert Quarantined(again).items() == []
    again.close()
    assert items == quarantine.items
    assert [item.kind for item in items] == ["request", "request", "grammar", "adapter"]
    assert all(b"zanzibar" not in file.read_bytes() for file in tmp_path.iterdir())
