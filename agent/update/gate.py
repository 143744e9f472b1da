"""Whether a candidate may serve: what it showed on this node against what its release promises, and against what the
model that serves now showed in the same way. Pure.

What the candidate said, how long it took and what it weighed is measured elsewhere and passed in, so is whatever needs
a model, a regular expression or a JSON Schema library. What was to be measured and was not is a reason against it: an
empty trial never passes. No reason quotes an answer.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

from contract.release import Contains, Expectation, Fits, Matches, Release, Resembles

MAX_ANSWER_CHARS = 100_000
# A text that ends in so many copies of one piece is a loop: models that are broken go on until they are stopped.
LOOP_COPIES = 4
LOOP_CHARS = 60
LOOP_PIECE_CHARS = 250
MIB = 1 << 20

# What holds for releases that say nothing else; measured in docs/adr/0066.
MIN_SPEED = 0.45  # of the serving model's tokens a second
# An adapter of a usual size leaves half to three quarters of the bare model's, but a third on a busy node: it has many
# small steps.
MIN_ADAPTER_SPEED = 0.2
# Bits for each byte of the built-in texts and conversations, to the serving model's.
MAX_TEXT_RATIO = 1.3
MAX_CHAT_RATIO = 1.5
MAX_ADAPTER_RATIO = 2.5  # of both: it may speak of one thing only
MAX_MORE_LOOPS = 1  # of the built-in questions, to the serving model's


class Answer(Struct, frozen=True, kw_only=True):
    """What a model answered to a golden prompt, and which of its expectations are met. None: not measured."""

    text: str
    met: tuple[bool | None, ...] = ()


class Trial(Struct, frozen=True, kw_only=True):
    """What a model showed; answers in the order of the golden prompts. None: not measured.

    `text_bits` and `chat_bits` are how many bits it needs for a byte of the built-in texts and conversations.
    """

    answers: tuple[Answer, ...] = ()
    replies: tuple[str, ...] = ()  # to the built-in questions
    has_nan: bool = False  # in any row of logits
    unknown_marks: int = 0  # that the chat template writes and that are no tokens here
    lacks_marks: bool = False  # the chat template has none of the model's, and the one in its file has
    text_bits: float | None = None
    chat_bits: float | None = None
    perplexity: float | None = None  # of the release's own text
    tok_s: float | None = None
    memory_bytes: int | None = None


class Verdict(Struct, frozen=True):
    """Whether it may serve, and all that speaks against it."""

    passed: bool
    reasons: tuple[str, ...] = ()
    is_doubtful: bool = False  # other work on the node may be to blame: it was slow and nothing else, or killed


def decide(release: Release, trial: Trial, baseline: Trial | None, max_memory_bytes: int) -> Verdict:
    """Whether a candidate may serve. `baseline` is what the serving model shows; None: there is none to compare with.

    An adapter is compared with the model without it, which tells noise; only its own golden prompts can tell more.
    """
    if trial.has_nan:  # and nothing else was asked
        return Verdict(False, ("it computes what is no number",))
    rest = [
        *_broken(trial),
        *_golden(release, trial.answers),
        *_perplexity(release, trial),
        *(_compared(release, trial, baseline) if baseline else ()),
        *_memory(trial, max_memory_bytes),
    ]
    slow = list(_speed(release, trial, baseline)) if baseline else []
    return Verdict(not rest and not slow, (*rest, *slow), is_doubtful=bool(slow) and not rest)


def is_loop(text: str) -> bool:
    """Whether a text ends in copies of one piece, the last of them perhaps cut off."""
    text = text.rstrip()
    for piece in range(1, min(LOOP_PIECE_CHARS, len(text) // LOOP_COPIES) + 1):
        enough = max(LOOP_COPIES * piece, LOOP_CHARS)
        if len(text) >= enough and text[-enough:-piece] == text[piece - enough :]:
            return True
    return False


def _broken(trial: Trial) -> Iterator[str]:
    """What no release may show, whatever it promises."""
    if trial.unknown_marks:
        yield f"its chat template writes {trial.unknown_marks} marks that are no tokens of the model"
    if trial.lacks_marks:
        yield "its chat template has none of the marks that the one in the model's file has"
    for number, answer in enumerate(trial.answers, 1):
        if not answer.text.strip():
            yield f"answer {number} is empty"
        elif len(answer.text) > MAX_ANSWER_CHARS:
            yield f"answer {number} has more than {MAX_ANSWER_CHARS} characters"
        elif is_loop(answer.text):
            yield f"answer {number} repeats itself without end"


def _golden(release: Release, answers: Sequence[Answer]) -> Iterator[str]:
    if len(answers) != len(release.golden):
        yield f"{len(answers)} of {len(release.golden)} golden prompts were answered"
        return
    for number, (golden, answer) in enumerate(zip(release.golden, answers, strict=True), 1):
        if len(answer.met) != len(golden.expect):
            yield f"answer {number} was not looked at"
            continue
        whys = (
            _why(expected) for expected, met in zip(golden.expect, answer.met, strict=True) if _speaks(expected, met)
        )
        if why := ", ".join(dict.fromkeys(whys)):
            yield f"answer {number} {why}"


def _speaks(expected: Expectation, met: bool | None) -> bool:
    """Whether it speaks against a release; a node without a model for embeddings cannot tell of similarity."""
    return met is False or (met is None and not isinstance(expected, Resembles))


def _why(expected: Expectation) -> str:
    match expected:
        case Contains():
            return "lacks what it must contain"
        case Matches():
            return "does not match its pattern"
        case Fits():
            return "does not fit its schema"
        case Resembles(cosine=cosine):
            return f"is less similar than {cosine:g} to a good one"


def _perplexity(release: Release, trial: Trial) -> Iterator[str]:
    if release.perplexity and not _is_at_most(trial.perplexity, release.perplexity.ceiling):
        yield f"its perplexity is {_text(trial.perplexity)}; at most {release.perplexity.ceiling:g} may be"


def _compared(release: Release, trial: Trial, baseline: Trial) -> Iterator[str]:
    is_adapter = release.kind == "adapter"
    for what, bits, usual, ratio in (
        ("text", trial.text_bits, baseline.text_bits, MAX_ADAPTER_RATIO if is_adapter else MAX_TEXT_RATIO),
        ("conversations", trial.chat_bits, baseline.chat_bits, MAX_ADAPTER_RATIO if is_adapter else MAX_CHAT_RATIO),
    ):
        if usual is not None and not _is_at_most(bits, usual * ratio):
            yield (
                f"it needs {_text(bits)} bits for a byte of {what}; at most {usual * ratio:.3g} may be, since the model"
                f" that serves needs {usual:.3g}"
            )
    empty = sum(not reply.strip() for reply in trial.replies) - sum(not reply.strip() for reply in baseline.replies)
    if empty > 0:
        yield f"{empty} more of its replies are empty than those of the model that serves"
    loops = sum(map(is_loop, trial.replies)) - sum(map(is_loop, baseline.replies))
    if loops > MAX_MORE_LOOPS and not is_adapter:  # an adapter for one thing may say that for ever to all else
        yield f"{loops} more of its replies repeat themselves without end than those of the model that serves"


def _speed(release: Release, trial: Trial, baseline: Trial) -> Iterator[str]:
    if baseline.tok_s is not None:
        usual = MIN_ADAPTER_SPEED if release.kind == "adapter" else MIN_SPEED
        least = (release.min_speed or usual) * baseline.tok_s
        if not _is_at_least(trial.tok_s, least):
            yield f"its speed in tokens a second is {_text(trial.tok_s)}; at least {least:.3g} must be"


def _memory(trial: Trial, max_bytes: int) -> Iterator[str]:
    if not _is_at_most(trial.memory_bytes, max_bytes):
        took = None if trial.memory_bytes is None else trial.memory_bytes / MIB
        yield f"its memory in MiB is {_text(took)}; at most {max_bytes / MIB:.4g} may be"


def _is_at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit  # no number is neither this nor the next


def _is_at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _text(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
