"""Adapters in an engine process: in slots, in turns, on the move between both, waiting, parked.

Answers are compared with those of `tests.fakes.oracle`, computed alone and by llama.cpp's plain means. The model is
tiny, in f32, so that logits hardly depend on what else is in a batch, and never ends an answer.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from agent.engine import frames
from tests.fakes.adapters import adapter_builder, encode, make_adapter
from tests.fakes.engine import EngineProcess
from tests.fakes.oracle import Oracle, Question
from tests.fakes.tiny_model import write_tiny_model

NOISE = 0.01  # see test_contamination.py
CONTEXT_TOKENS = 1536
KINDS: dict[str, dict[str, Any]] = {
    "a": {"seed": 1},
    "b": {"seed": 2},
    "c": {"seed": 3},
    "rank-4": {"seed": 4, "rank": 4, "alpha": 12.0},
    "rank-16": {"seed": 5, "rank": 16},
    "one-layer": {"seed": 6, "layers": [1]},
    "two-tensors": {"seed": 7, "tensors": ("attn_q", "ffn_up")},
    "late": {"seed": 8, "activation": "user"},
}
FISH = ("user", "Name a fish.")
SYSTEM = ("system", "You speak for a house. " + " ".join(f"Room {n} has {n} lamps." for n in range(8)))


class Scene:
    """A model with adapters, an engine that runs it, and what it would say alone."""

    def __init__(self, model: Path, adapters: dict[str, Path], oracle: Oracle, cache_dir: Path) -> None:
        self.model, self.adapters, self.oracle, self._cache_dir = model, adapters, oracle, cache_dir
        self._engines: list[EngineProcess] = []
        self._asked: dict[int, Question] = {}

    def start(self, num_slots: int = 3, parallel: int = 4) -> EngineProcess:
        """Starts the engine and gives it all adapters."""
        self.engine = EngineProcess(
            self.model, parallel=parallel, context_tokens=CONTEXT_TOKENS, adapter_slots=num_slots,
            cache_dir=self._cache_dir,
        )  # fmt: skip
        self._engines.append(self.engine)
        self.sha256 = {name: self.engine.give(path) for name, path in self.adapters.items()}
        assert not num_slots or self.engine.slots.num_slots == num_slots
        return self.engine

    def ask(
        self,
        name: str | None,
        *turns: tuple[str, str],
        max_tokens: int = 20,
        activation: frames.Activation | None = None,
        **how: Any,
    ) -> int:
        """Starts a generation with an adapter."""
        turns = turns or (SYSTEM, FISH)
        acts: frames.Activation = activation or ("user" if name == "late" else "prompt")
        number = self.engine.generate(
            *turns, adapter=self.sha256[name] if name else None, activation=activation, max_tokens=max_tokens, **how
        )
        self._asked[number] = Question(turns, self.adapters[name] if name else None, acts)
        return number

    def says_the_same(self, number: int) -> bool:
        """Whether a generation's tokens so far are those of the answer computed alone."""
        tokens = self.engine.tokens.get(number, [])
        difference = self.oracle.difference(self._asked[number], tokens)
        print(number, len(tokens), difference)  # noqa: T201  # what is let pass must be seen
        return difference is None or difference.margin <= NOISE

    def text(self, number: int, num_tokens: int) -> str:
        """What it would say alone."""
        return self.oracle.text(self._asked[number], num_tokens)

    def check(self, *numbers: int) -> dict[int, frames.Done]:
        """Waits for the ends of these, in any order; all must have said what they say alone."""
        done = self.engine.done(len(numbers))
        assert set(done) == set(numbers)
        assert all(end.completion_tokens == len(self.engine.tokens[number]) for number, end in done.items())
        assert all(self.says_the_same(number) for number in numbers)
        return done

    def close(self) -> None:
        """Ends the engines."""
        for engine in self._engines:
            engine.close()


NewScene = Callable[[], Scene]


@pytest.fixture(scope="module")
def new_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewScene]:
    """Makes scenes; model, adapters and answers are shared."""
    folder = tmp_path_factory.mktemp("lanes")
    model = write_tiny_model(
        folder / "model.gguf", dtype="f32", num_spare=4, context_tokens=CONTEXT_TOKENS, endless=True
    )
    adapters = {
        name: make_adapter(folder / f"{name}.gguf", model, **{"scale": 1.0, **kind}) for name, kind in KINDS.items()
    }
    oracle = Oracle(model, context_tokens=CONTEXT_TOKENS)
    yield lambda: Scene(model, adapters, oracle, folder / "cache")
    oracle.close()


@pytest.fixture
def scene(new_scene: NewScene) -> Iterator[Scene]:
    """A scene without an engine yet."""
    made = new_scene()
    yield made
    made.close()


def test_adapters_are_told_apart(scene: Scene) -> None:
    """The adapters of this file all say different things, so that a mix-up shows."""
    scene.start(0)
    texts = {scene.text(scene.ask(name), 20) for name in (None, *KINDS)}
    assert len(texts) == 1 + len(KINDS)


@pytest.mark.parametrize("num_slots", [0, 1, 4], ids=["turns", "one slot", "slots"])
def test_all_adapters_at_once(scene: Scene, num_slots: int) -> None:
    """Of any rank and kind, with the bare model beside them, more than streams and slots: each says its own."""
    scene.start(num_slots)
    scene.check(*(scene.ask(name) for name in (None, *KINDS)))
    again = scene.check(*(scene.ask(name) for name in (None, *KINDS)))
    assert all(end.cached_tokens > 50 for end in again.values())


def test_an_answer_moves_between_lanes_and_back(scene: Scene) -> None:
    """When a second adapter comes, an answer goes on in the lane with slots; when that is gone, in the plain one."""
    engine = scene.start()
    long = scene.ask("a", max_tokens=300)
    for _ in range(4):
        engine.wait_tokens(long, len(engine.tokens.get(long, [])) + 50)  # more than it takes to move back
        (short,) = scene.check(scene.ask("b", max_tokens=8))
        assert len(engine.tokens[short]) == 8
    scene.check(long)
    assert len(engine.tokens[long]) == 300


def test_slots_that_come_late_take_over_what_runs(scene: Scene) -> None:
    """Adapters take turns until slots are there; what runs then goes on in them."""
    engine = scene.start(0)
    numbers = [scene.ask(name, max_tokens=400) for name in ("a", "b", None)]
    engine.wait_tokens(numbers[0], 5)
    engine.send(frames.MakeSlots(3))
    scene.check(*numbers)


@pytest.mark.parametrize("num_slots", [0, 3])
def test_an_urgent_request_takes_a_place_and_gives_it_back(scene: Scene, num_slots: int) -> None:
    """In a full engine it is answered at once; what was parked for it goes on as if nothing had been."""
    engine = scene.start(num_slots, parallel=2)
    low = [scene.ask(name, max_tokens=250, priority=priority) for name, priority in (("a", 4), ("b", 3))]
    for number in low:
        engine.wait_tokens(number, 5)
    for name in ("c", "a", None):
        scene.check(scene.ask(name, max_tokens=10, priority=9))
        said = len(engine.tokens[low[1]])
        engine.wait_tokens(low[1], said + 5)
    scene.check(*low)


def test_an_urgent_request_takes_a_slot_and_gives_it_back(scene: Scene) -> None:
    """Streams are free, slots are not: a less urgent one is parked, and goes on when the urgent one has ended."""
    scene.start(num_slots=2)
    low = [scene.ask(name, max_tokens=250, priority=priority) for name, priority in (("a", 4), ("b", 3))]
    scene.engine.read(40)
    urgent = scene.ask("c", max_tokens=10, priority=9)
    scene.check(urgent)
    scene.check(*low)


def test_who_is_as_urgent_takes_no_slot(scene: Scene) -> None:
    """It waits until one of the others has ended."""
    scene.start(num_slots=2)
    early = [scene.ask("a", max_tokens=30), scene.ask("b", max_tokens=200)]
    scene.engine.read(10)
    late = scene.ask("c", max_tokens=5)
    assert list(scene.check(early[0], late)) == [early[0], late]
    scene.check(early[1])


def test_nobody_waits_for_a_slot_for_ever(scene: Scene) -> None:
    """While two adapters with many requests hold both slots, others get one before the crowd is through."""
    scene.start(2)
    crowd = [scene.ask(name, max_tokens=30) for name in "abababababab"]
    rare = [scene.ask(name, max_tokens=5) for name in ("c", "rank-4")]
    crowd += [scene.ask(name, max_tokens=30) for name in "abababababab"]
    order = list(scene.check(*crowd, *rare))
    assert max(order.index(number) for number in rare) < len(order) - 8


def test_a_slot_forgets_what_was_in_it(scene: Scene) -> None:
    """An adapter that leaves layers or ranks out gets nothing of the one before in the same slot."""
    engine = scene.start(1)
    beside = scene.ask(None, max_tokens=1000)  # as long as it runs, the others are in the slot
    for name in ("a", "one-layer", "b", "two-tensors", "rank-4", "a", "rank-4", "one-layer", "two-tensors"):
        scene.check(scene.ask(name))
    assert len(engine.tokens[beside]) < 1000
    scene.check(beside)


def test_what_fits_no_slot_takes_turns(scene: Scene) -> None:
    """A rank above that of the slots runs in the plain lane, while others run in slots."""
    scene.start()
    numbers = [scene.ask(name, max_tokens=60) for name in ("rank-16", "a", "b", None)]
    scene.check(*numbers)


def test_a_common_beginning_is_computed_once_for_all_adapters(scene: Scene) -> None:
    """Adapters that act from the user turn on share the system prompt: one computes it, the others wait for it."""
    scene.start()
    begin = scene.oracle.prompt((SYSTEM, FISH)).user
    numbers = [scene.ask(name, activation="user") for name in ("a", "b", "c", None)]
    done = scene.check(*numbers)
    assert sorted(end.cached_tokens for end in done.values()) == [0, begin, begin, begin]
    late = [scene.ask("late"), scene.ask("rank-16", activation="user")]
    assert [end.cached_tokens for end in scene.check(*late).values()] == [begin] * 2


def test_adapters_that_act_from_the_first_token_share_nothing(scene: Scene) -> None:
    """What one adapter has computed is of no use to another, nor to the bare model."""
    scene.start()
    for name in ("a", "b", None):
        (done,) = scene.check(scene.ask(name)).values()
        assert done.cached_tokens == 0
    (done,) = scene.check(scene.ask("a")).values()
    assert done.cached_tokens > 50


@pytest.mark.parametrize("num_slots", [0, 3])
def test_a_conversation_computes_no_answer_again(scene: Scene, num_slots: int) -> None:
    """The next turn takes over all turns before, the answer included, though others ran in between."""
    engine = scene.start(num_slots)
    beside = scene.ask(None, max_tokens=1000)
    first = scene.ask("a", max_tokens=12)
    (before,) = scene.check(first).values()
    scene.check(*(scene.ask(name) for name in ("b", "c", "rank-4")))
    spoken = ("assistant", before.text)
    begin = scene.oracle.prompt((SYSTEM, FISH, spoken, FISH)).tokens
    assert begin[before.prompt_tokens :][:11] == engine.tokens[first][:11]  # the text gives the same tokens
    (after,) = scene.check(scene.ask("a", SYSTEM, FISH, spoken, FISH)).values()
    assert after.cached_tokens >= before.prompt_tokens + 11
    engine.cancel(beside)
    assert engine.done()[beside].finish_reason in ("cancelled", "length")


def test_an_adapter_that_was_forgotten_can_come_again(scene: Scene) -> None:
    """Without it a request is refused; sent again, it says the same, and takes nothing over from its first life."""
    engine = scene.start()
    scene.check(*(scene.ask(name) for name in ("a", "b")))
    engine.send(frames.Forget(scene.sha256["a"]))
    refused = engine.generate(FISH, adapter=scene.sha256["a"])
    end = engine.ended()[refused]
    assert isinstance(end, frames.Rejected)
    assert (end.status, end.code) == (400, "adapter")
    engine.give(scene.adapters["a"])
    numbers = [scene.ask(name) for name in ("a", "b")]
    done = scene.check(*numbers)
    assert [done[number].cached_tokens > 0 for number in numbers] == [False, True]


def test_an_adapter_that_is_forgotten_while_it_speaks(scene: Scene) -> None:
    """What runs with it ends as it should, in whatever lane it is."""
    engine = scene.start()
    long = [scene.ask(name, max_tokens=120) for name in ("a", "b")]
    engine.wait_tokens(long[0], 5)
    engine.send(frames.Forget(scene.sha256["a"]))
    scene.check(*long)


def test_a_broken_adapter_is_refused_and_harms_nobody(scene: Scene, tmp_path: Path) -> None:
    """NaN, another base, no file at all: each request is refused with the reason, and others go on."""
    engine = scene.start()
    beside = scene.ask("a", max_tokens=200)
    nan = adapter_builder(scene.model)
    nan.tensor("blk.0.attn_q.weight.lora_b", "f16", (8, 64), encode(nan_weights(64, 8), "f16"))
    (tmp_path / "nan.gguf").write_bytes(nan.build())
    (tmp_path / "text.gguf").write_bytes(b"hello")
    wide = write_tiny_model(tmp_path / "wide.gguf", width=128)
    make_adapter(tmp_path / "other.gguf", wide)
    reasons = {"nan": "not a number", "text": "cannot use the adapter", "other": "the base has", "wide": "general.type"}
    for name, reason in reasons.items():
        number = engine.generate(FISH, adapter=engine.give(tmp_path / f"{name}.gguf"))
        end = engine.ended()[number]
        assert isinstance(end, frames.Rejected)
        assert (end.status, end.code) == (400, "adapter")
        assert reason in end.message
    unknown = engine.generate(FISH, adapter="0" * 64)
    assert isinstance(engine.ended()[unknown], frames.Rejected)
    scene.check(beside)


def nan_weights(rows: int, columns: int) -> npt.NDArray[np.float64]:
    """Zeros, and one that is no number."""
    weights = np.zeros((rows, columns))
    weights[1, 1] = np.nan
    return weights


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
def test_one_that_waits_for_a_slot_can_be_stopped(scene: Scene, reason: str) -> None:
    """It ends at once, with no more than the token that its prompt gave, and leaves the slot to those behind it."""
    engine = scene.start(1)
    running = [scene.ask("a", max_tokens=600), scene.ask(None, max_tokens=600)]
    engine.wait_tokens(running[0], 2)
    waits = scene.ask("b", deadline_ms=60 if reason == "deadline" else 60_000)
    engine.wait_tokens(running[0], 20)
    if reason == "cancelled":
        engine.cancel(waits)
    assert engine.done()[waits].finish_reason == reason
    assert len(engine.tokens.get(waits, [])) <= 1
    assert len(engine.tokens[running[0]]) < 600
    behind = scene.ask("c")
    scene.check(*running, behind)


@pytest.mark.parametrize("reason", ["cancelled", "deadline"])
def test_one_that_is_parked_can_be_stopped(scene: Scene, reason: str) -> None:
    """It ends at once with what it had said, and the others go on."""
    engine = scene.start(3, parallel=1)
    parked = scene.ask("a", max_tokens=1000, deadline_ms=250 if reason == "deadline" else 60_000)
    engine.wait_tokens(parked, 5)
    urgent = scene.ask("b", max_tokens=1000, priority=9)
    engine.wait_tokens(urgent, 5)
    said = len(engine.tokens[parked])
    if reason == "cancelled":
        engine.cancel(parked)
    end = engine.done()[parked]
    assert (end.finish_reason, end.completion_tokens) == (reason, said)
    assert scene.says_the_same(parked)
    assert len(engine.tokens[urgent]) < 1000
    scene.check(urgent)


@pytest.mark.parametrize("victim", [0, 1])
def test_leaders_and_followers_can_be_stopped(scene: Scene, victim: int) -> None:
    """Of several with the same long prompt any may end early; the others are answered."""
    scene.start()
    words = ("user", " ".join(f"Lamp {n} is on." for n in range(90)))
    for name in ("a", "b", "c"):
        numbers = [scene.ask(name, words, FISH) for _ in range(3)]
        scene.engine.cancel(numbers[victim])
        done = scene.engine.done(3)
        assert all(end.finish_reason == "length" for number, end in done.items() if number != numbers[victim])
        assert all(scene.says_the_same(number) for number in numbers)
