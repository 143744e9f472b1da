"""A lane, step by step: who follows whom, who is parked, and what happens when memory cannot be moved.

The lane runs in this process on a real context, so that a test decides what happens between two steps.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import frames
from agent.engine.adapters import Adapters, PlainAdapters
from agent.engine.growth import START_STREAMS
from agent.engine.kv_state import Bytes, StateError
from agent.engine.lane import MIN_PREPARED_TOKENS, Lane
from agent.engine.llama import Abort, Context, Model
from agent.engine.prefix import PrefixStore
from agent.engine.sequence import Sequence
from agent.engine.switch import TurnSwitch
from agent.engine.template import ChatTemplate
from agent.weights.base_model import read_base_file
from tests.fakes.oracle import Oracle, Question, Turns
from tests.fakes.tiny_model import write_tiny_model

NOISE = 0.01  # see test_contamination.py
CONTEXT_TOKENS, STEP_TOKENS, MAX_TOKENS = 512, 32, 12
SYSTEM = ("system", " ".join(f"Room {number} has a lamp." for number in range(7)))
FISH: Turns = (SYSTEM, ("user", "Name a fish."))
LAMP: Turns = (SYSTEM, ("user", "Which lamp is on?"))
OTHERS: list[Turns] = [(("user", f"{letter * 50}?"),) for letter in "abcdefgh"]


class Stage:
    """A lane that a test drives."""

    def __init__(self, path: Path, oracle: Oracle) -> None:
        self.model = Model(str(path), use_extra_bufts=False, use_mmap=True)
        self.oracle = oracle
        self.store = PrefixStore(1 << 20)
        self._template = ChatTemplate(self.model)
        self._base = read_base_file(path)
        self._numbers = itertools.count()
        self._questions: dict[int, Turns] = {}

    def start(self, max_streams: int) -> Lane:
        """Makes the lane."""
        abort = Abort()

        def make_context(streams: int) -> Context:
            return Context(
                self.model, abort, context_tokens=CONTEXT_TOKENS, parallel=streams, batch_tokens=STEP_TOKENS, threads=1
            )

        switch = TurnSwitch(Adapters(self._base), PlainAdapters(self.model))
        self.lane = Lane(make_context, max_streams, switch, self.store)
        return self.lane

    def add(self, turns: Turns, *, priority: int = 4, max_tokens: int = MAX_TOKENS) -> Sequence:
        """A new sequence that waits for a stream."""
        number = next(self._numbers)
        self._questions[number] = turns
        sampling = frames.Sampling(temperature=0, top_p=1, top_k=40)
        job = frames.Generate(
            job=number, turns=list(turns), sampling=sampling, max_tokens=max_tokens, deadline_ms=60_000,
            priority=priority,
        )  # fmt: skip
        prompt = self._template.prompt(list(turns))
        sequence = Sequence(self.model, job, prompt, CONTEXT_TOKENS, time.monotonic(), 0)
        self.lane.add(sequence)
        return sequence

    def step(self, times: int = 1) -> None:
        """What the engine's loop does."""
        for _ in range(times):
            self.lane.arrange()
            assert self.lane.refusals() == []
            for sequence, logits in self.lane.step(STEP_TOKENS):
                sequence.choose(logits)
                if sequence.finish_reason:
                    self.lane.remove(sequence)

    def run(self, *sequences: Sequence) -> None:
        """Goes on until all of these have ended; each must have said what it says alone."""
        for _ in range(1000):
            if all(sequence.finish_reason for sequence in sequences):
                break
            self.step()
        for sequence in sequences:
            said = sequence.tokens[sequence.num_prompt_tokens :]
            difference = self.oracle.difference(Question(self._questions[sequence.job]), said)
            assert sequence.finish_reason == "length"
            assert difference is None or difference.margin <= NOISE, difference

    def cut(self, turns: Turns) -> int:
        """Where the last turn begins."""
        return self._template.prompt(list(turns)).user


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Oracle]]:
    """A model that never ends an answer, and what it says."""
    path = tmp_path_factory.mktemp("steps") / "model.gguf"
    write_tiny_model(path, dtype="f32", context_tokens=CONTEXT_TOKENS, num_spare=1, endless=True)
    oracle = Oracle(path, context_tokens=CONTEXT_TOKENS)
    yield path, oracle
    oracle.close()


@pytest.fixture
def stage(files: tuple[Path, Oracle]) -> Iterator[Stage]:
    """A stage without a lane yet."""
    made = Stage(*files)
    yield made
    made.lane.context.close()
    made.model.close()


def test_one_computes_what_several_begin_with(stage: Stage) -> None:
    """The others wait, copy it, and compute only what is their own."""
    lane = stage.start(4)
    leader, *followers = stage.add(FISH), stage.add(LAMP), stage.add(FISH)
    begin = stage.cut(FISH)
    while leader.position < begin:
        stage.step()
        assert all(follower.position == 0 for follower in followers)
        assert all(follower.leader == (leader, begin) for follower in followers)
    stage.step()
    assert all(follower.leader is None for follower in followers)
    assert [sequence.num_cached_tokens for sequence in lane.sequences] == [0, begin, begin]
    stage.run(leader, *followers)


def test_who_leads_is_followed_in_a_chain(stage: Stage) -> None:
    """Of a conversation's turns each waits for the one before; nobody waits for one that waits for it."""
    stage.start(4)
    talk: Turns = (*FISH, ("assistant", "A cod, which swims in cold water."), ("user", "Name another fish."))
    first, second, third = stage.add(FISH), stage.add(talk), stage.add((*talk, ("assistant", "A"), ("user", "?")))
    stage.run(first, second, third)
    # Up to where the assistant speaks in the prompt before.
    for before, after in ((first, second), (second, third)):
        assert after.num_cached_tokens == max(cut for cut in after.cuts if cut <= before.num_prompt_tokens)
    assert first.num_cached_tokens == 0


@pytest.mark.parametrize("num_steps", [1, 3, 5])
def test_a_leader_that_ends_early_leaves_what_it_has(stage: Stage, num_steps: int) -> None:
    """A follower takes that over and goes on by itself, and the next one follows it."""
    lane = stage.start(4)
    leader, *others = stage.add(FISH), stage.add(FISH), stage.add(LAMP)
    stage.step(num_steps)
    lane.remove(leader)
    stage.step(1)
    assert all(other.leader is None or other.leader[0] in others for other in others)
    assert any(other.leader is None for other in others)
    stage.run(*others)
    assert max(other.num_cached_tokens for other in others) >= stage.cut(FISH)


def test_followers_can_end_early(stage: Stage) -> None:
    """Nobody waits for one that is gone."""
    lane = stage.start(4)
    leader, follower, other = stage.add(FISH), stage.add(FISH), stage.add(LAMP)
    stage.step(2)
    lane.remove(follower)
    stage.run(leader, other)


def test_who_is_urgent_follows_nobody_less_urgent(stage: Stage) -> None:
    """It would have to wait for a turn that others take first; those of lower priority follow it instead."""
    stage.start(4)
    slow = stage.add(FISH, priority=3)
    stage.step()
    urgent = stage.add(FISH, priority=9)
    stage.step(2)
    assert urgent.leader is None
    assert urgent.position > 0
    stage.run(slow, urgent)


def test_what_is_parked_goes_on_where_it_was(stage: Stage) -> None:
    """In the middle of a prompt, of an answer, as a leader or as a follower: it computes nothing twice."""
    stage.start(2)
    low = [stage.add(FISH, priority=1), stage.add(LAMP, priority=1)]
    num_parked = 0
    for at in range(12):
        stage.step(2)
        positions = {sequence: sequence.position for sequence in low if not sequence.finish_reason}
        urgent = [stage.add(OTHERS[(2 * at + n) % 8], priority=9, max_tokens=2) for n in (0, 1)]
        stage.step()
        assert all(
            sequence.stream is None and sequence.position == position for sequence, position in positions.items()
        )
        num_parked += len(positions)
        stage.run(*urgent)
    assert num_parked > 8
    stage.run(*low)


def test_what_a_stream_held_is_not_taken_for_what_it_holds(stage: Stage) -> None:
    """A parked sequence comes back into a stream where another prompt was: that one's beginning is no longer there."""
    lane = stage.start(2)
    low = [stage.add(turns, priority=1, max_tokens=60) for turns in OTHERS[:2]]
    stage.step(6)
    urgent = [stage.add(turns, priority=9, max_tokens=9) for turns in (FISH, OTHERS[2])]
    stage.step()
    stream = urgent[0].stream
    stage.run(*urgent)
    stage.step()
    back, gone = sorted(low, key=lambda sequence: sequence.stream != stream)
    assert back.stream == stream
    lane.remove(gone)
    stage.run(stage.add(LAMP), back)


def test_a_damaged_state_is_computed_again(stage: Stage) -> None:
    """What was kept and has changed in memory is dropped; the answer is right."""
    stage.start(1)
    stage.run(stage.add(FISH))
    stage.run(stage.add(OTHERS[0]))
    ((number, (_, state)),) = stage.store._entries.items()
    state.data[state.data.size // 2] ^= 0xFF
    again = stage.add(FISH)
    stage.run(again)
    assert again.num_cached_tokens == 0
    assert number not in stage.store._entries


def test_a_kept_state_is_of_use_again_and_again(stage: Stage) -> None:
    """However often others take the stream in between."""
    stage.start(2)
    stage.run(stage.add(FISH))
    for turns in OTHERS[:5]:
        stage.run(stage.add(turns), stage.add(OTHERS[6]))
        again = stage.add(LAMP)
        stage.run(again)
        assert again.num_cached_tokens == stage.cut(FISH)


@pytest.mark.parametrize("max_streams", [START_STREAMS, 2 * START_STREAMS])
@pytest.mark.parametrize("fails", ["save", "load"])
def test_memory_that_cannot_be_moved_is_computed_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, fails: str, max_streams: int
) -> None:
    """As with recurrent models: following, parking, growing and the cache cost time then, and change nothing."""

    def fail(context: Context, stream: int, *_: Bytes) -> Bytes:
        if fails == "load":
            context.keep(stream, 0)
        raise StateError("not with this kind")

    stage.start(max_streams)
    stage.run(stage.add(FISH), *(stage.add(turns) for turns in OTHERS[:3]))
    monkeypatch.setattr(Context, fails, fail)
    low = [stage.add(turns, priority=1) for turns in (FISH, LAMP, FISH, *OTHERS[:5])]
    stage.step(4)
    urgent = [stage.add(turns, priority=9) for turns in (LAMP, FISH, OTHERS[0])]
    stage.run(*low, *urgent)
    stage.run(stage.add(LAMP))


def test_more_streams_take_over_what_runs(stage: Stage) -> None:
    """When more wait than fit, the lane goes on in a context with more streams; nothing is computed again."""
    lane = stage.start(4 * START_STREAMS)
    first = [stage.add(turns, max_tokens=40) for turns in OTHERS[:START_STREAMS]]
    stage.step(12)
    positions = [sequence.position for sequence in first]
    more = [stage.add(turns, max_tokens=40) for turns in (FISH, LAMP, *OTHERS[-2:])]
    stage.step(2)
    assert lane.context.parallel == 2 * START_STREAMS
    assert all(sequence.position >= position for sequence, position in zip(first, positions, strict=True))
    stage.run(*first, *more)


def test_a_gap_between_streams_is_closed_and_changes_nothing(stage: Stage) -> None:
    """Rows of streams that do not ascend by one cost a pass over the weights each; so the last one moves down."""
    lane = stage.start(4)
    sequences = [stage.add(turns, max_tokens=60) for turns in OTHERS[:4]]
    stage.step(12)
    assert sorted(s.stream for s in sequences if s.stream is not None) == [0, 1, 2, 3]
    gone = next(s for s in sequences if s.stream == 1)
    gone.end("cancelled")
    lane.remove(gone)
    left = [s for s in sequences if s is not gone]
    stage.step()
    assert sorted(s.stream for s in left if s.stream is not None) == [0, 1, 2]
    stage.run(*left)


def test_rows_of_a_step_ascend_by_stream(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which sequences came to their streams."""
    lane = stage.start(4)
    seen: list[list[int]] = []
    decode = Context.decode

    def watched(context: Context, rows: list[tuple[int, int, int, bool]]) -> bool:
        seen.append([stream for _, _, stream, _ in rows])
        return decode(context, rows)

    monkeypatch.setattr(Context, "decode", watched)
    lane.streams.free.reverse()
    stage.run(*(stage.add(turns) for turns in OTHERS[:4]))
    assert any(len(set(streams)) > 2 for streams in seen)
    assert all(streams == sorted(streams) for streams in seen)


def test_a_prompt_is_prepared_to_its_end(stage: Stage) -> None:
    """It is computed where a token costs least, and so are those that wait for its beginning or for a stream."""
    lane = stage.start(2)
    leader, follower, waiting = (stage.add(turns) for turns in (FISH, LAMP, FISH))
    assert leader.num_prompt_tokens >= MIN_PREPARED_TOKENS
    while leader.position < leader.num_prompt_tokens:
        assert all(lane.prepares(sequence) for sequence in (leader, follower, waiting))
        stage.step()
    assert not lane.prepares(leader)
    stage.run(leader, follower, waiting)


def test_the_rest_of_a_prompt_may_not_be_worth_it(stage: Stage) -> None:
    """One that comes with nearly all of its prompt goes where it decodes, at once."""
    lane = stage.start(2)
    short = stage.add(FISH)
    assert lane.prepares(short)
    short.position = short.num_prompt_tokens - MIN_PREPARED_TOKENS + 1
    assert not lane.prepares(short)
    short.position = 0
    stage.run(short)
