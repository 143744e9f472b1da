"""Which tokens go into the next step."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.batch import plan
from agent.engine.sequence import Sequence, Stage


@dataclass(eq=False)
class Standing:
    """The part of a sequence that planning looks at."""

    stage: Stage
    tokens: list[int]
    position: int
    num_portion_tokens: int
    priority: int = 4


def prompt(length: int, position: int = 0, portion: int | None = None, priority: int = 4) -> Sequence:
    """A sequence whose prompt is computed up to `position`."""
    left = length - position
    standing = (Stage.PROMPT, [0] * length, position, portion or left, priority)
    return Standing(*standing)  # type: ignore[return-value]  # the part that counts


def decoding() -> Sequence:
    """A sequence that speaks."""
    return Standing(Stage.DECODE, [0] * 9, 8, 1)  # type: ignore[return-value]  # as above


def test_who_speaks_goes_on_before_prompts_are_computed() -> None:
    """Decoding rows come first, then prompts, oldest first, with what is left."""
    first, second, speaking = prompt(100), prompt(50), decoding()
    shares = plan([first, second, speaking], 64)
    assert [(share.sequence, share.num_tokens, share.samples) for share in shares] == [
        (speaking, 1, True), (first, 63, False),
    ]  # fmt: skip


def test_urgent_prompts_are_computed_first() -> None:
    """Of several prompts the one of the highest priority comes first, and of equals the oldest."""
    old, urgent, new = prompt(40), prompt(40, priority=9), prompt(40)
    assert [share.sequence for share in plan([old, urgent, new], 128)] == [urgent, old, new]
    assert [share.sequence for share in plan([old, urgent, new], 40)] == [urgent]


def test_nobody_gets_a_step_without_room() -> None:
    """When those who speak fill the step, prompts wait."""
    assert [share.num_tokens for share in plan([prompt(9), *(decoding() for _ in range(4))], 4)] == [1] * 4


def test_a_prompt_gives_a_token_with_its_last_portion_only() -> None:
    """A portion that ends at a cut samples nothing; the last one does."""
    assert [share.samples for share in plan([prompt(100, 0, portion=40)], 128)] == [False]
    assert [share.samples for share in plan([prompt(100, 40)], 128)] == [True]


@given(
    lengths=st.lists(st.tuples(st.booleans(), st.integers(2, 300)), max_size=20),
    budget=st.integers(32, 256),
)
def test_a_step_never_exceeds_its_budget(lengths: list[tuple[bool, int]], budget: int) -> None:
    """All shares together fit, each is at least one token, and nobody who speaks is left out."""
    sequences = [decoding() if speaks else prompt(length) for speaks, length in lengths]
    shares = plan(sequences, budget)
    assert sum(share.num_tokens for share in shares) <= budget
    assert all(share.num_tokens > 0 for share in shares)
    assert {s for s in sequences if s.stage is Stage.DECODE} <= {share.sequence for share in shares}
