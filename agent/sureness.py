"""Which answers are good enough to be kept: for each model and adapter the confidence from which on they are.

Stored in `{state_dir}/calibration.json`, written by `shoal-agent calibrate`, read when the daemon starts.
"""

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct, UnsetType

from agent.calibration import MIN_OUTCOMES, Outcome, calibrate, calibration_error, threshold
from agent.errors import AgentError, ConfigError
from contract.answers import Final

FILE = "calibration.json"
ABOVE_ALL = 2.0  # no answer is so sure


class Answered(Outcome, frozen=True, kw_only=True):
    """An outcome as it was logged: whose it is, as finals give it."""

    model: str
    adapter: str | None = None


class Fit(Struct, frozen=True):
    """What `shoal-agent calibrate` shows of a model and adapter.

    Answers from `from_confidence` on are kept, and then right with probability `right` at least; `sent` is the share of
    the others, `error` the expected calibration error.
    """

    model: str
    adapter: str | None
    outcomes: int
    from_confidence: float
    right: float
    sent: float
    error: float


class Sureness:
    """Judges finals."""

    def __init__(self, kept: dict[str, float]) -> None:
        self._kept = kept

    def knows(self, model: str) -> bool:
        """Whether anything is known of a model's answers."""
        return any(key.partition(" ")[0] == model for key in self._kept)

    def is_enough(self, final: Final) -> bool:
        """Whether an answer is kept. One of which nothing is known is."""
        kept = self._kept.get(_key(str(final.model), final.adapter or None))
        return kept is None or isinstance(final.confidence, UnsetType) or final.confidence >= kept


def load(state_dir: Path) -> Sureness:
    """What was calibrated on this node; nothing, where nobody did.

    Raises:
        ConfigError: the file cannot be used.
    """
    file = state_dir / FILE
    try:
        return Sureness(msgspec.json.decode(file.read_bytes(), type=dict[str, float]))
    except FileNotFoundError:
        return Sureness({})
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"cannot use {file}: {error}; calibrate again or remove it") from error


def fit(outcomes: Iterable[Answered], share: float) -> list[Fit]:
    """What is kept of each model and adapter, so that of answers like these at most `share` are sent on.

    The error is that of the second half under a calibration made from the first: of what it was made from, an isotonic
    regression has none.

    Raises:
        AgentError: of a model and adapter there are too few outcomes.
    """
    by_key: dict[str, list[Answered]] = {}
    for one in outcomes:
        by_key.setdefault(_key(one.model, one.adapter), []).append(one)
    fits = list[Fit]()
    for key, some in by_key.items():
        random.Random(0).shuffle(some)  # they may stand in an order that says something
        half = len(some) // 2
        whole, first = calibrate(some), calibrate(some[:half])
        if whole is None or first is None:
            need = f"at least {2 * MIN_OUTCOMES} are needed"
            raise AgentError(f"cannot calibrate {key}: it has {len(some)} outcomes; {need}")
        at = min(threshold([one.confidence for one in some], share), ABOVE_ALL)
        error = calibration_error([(first.probability(one.confidence), one.right) for one in some[half:]])
        sent = sum(one.confidence < at for one in some) / len(some)
        right = whole.probability(at)
        fits.append(
            Fit(some[0].model, some[0].adapter, len(some), at, round(right, 4), round(sent, 4), round(error, 4))
        )
    return fits


def store(state_dir: Path, fits: Iterable[Fit]) -> None:
    """Writes what is kept from the daemon's next start on.

    Raises:
        AgentError: the folder cannot be written.
    """
    file = state_dir / FILE
    fresh = file.with_name(f".{FILE}")
    try:
        fresh.write_bytes(msgspec.json.encode({_key(one.model, one.adapter): one.from_confidence for one in fits}))
        fresh.replace(file)
    except OSError as error:
        raise AgentError(f"cannot write {file}: {error.strerror}; let this user write there") from error


def _key(model: str, adapter: str | None) -> str:
    return f"{model} {adapter}" if adapter else model
