"""Which answers are good enough to be kept: the calibration of each model and adapter, and what must be reached.

Stored in `{state_dir}/calibration.json`, written by `shoal-agent calibrate`, read when the daemon starts.
"""

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import Struct, UnsetType

from agent.calibration import MIN_OUTCOMES, Calibration, Outcome, calibrate, calibration_error, threshold
from agent.errors import AgentError, ConfigError
from contract.answers import Final

FILE = "calibration.json"


class Answered(Outcome, frozen=True, kw_only=True):
    """An outcome as it was logged: whose it is, as finals give it."""

    model: str
    adapter: str | None = None


class Kept(Struct, frozen=True):
    """Of one model and adapter: an answer that is right with this probability is kept."""

    calibration: Calibration
    from_probability: float


class Fit(Struct, frozen=True):
    """What `shoal-agent calibrate` shows of a model and adapter."""

    model: str
    adapter: str | None
    outcomes: int
    sent: float
    error: float


class Sureness:
    """Judges finals."""

    def __init__(self, kept: dict[str, Kept]) -> None:
        self._kept = kept

    def knows(self, model: str) -> bool:
        """Whether anything is known of a model's answers."""
        return any(key.partition(" ")[0] == model for key in self._kept)

    def is_enough(self, final: Final) -> bool:
        """Whether an answer is kept. One of which nothing is known is."""
        kept = self._kept.get(_key(str(final.model), final.adapter or None))
        if kept is None or isinstance(final.confidence, UnsetType):
            return True
        return kept.calibration.probability(final.confidence) >= kept.from_probability


def load(state_dir: Path) -> Sureness:
    """What was calibrated on this node; nothing, where nobody did.

    Raises:
        ConfigError: the file cannot be used.
    """
    file = state_dir / FILE
    try:
        return Sureness(msgspec.json.decode(file.read_bytes(), type=dict[str, Kept]))
    except FileNotFoundError:
        return Sureness({})
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"cannot use {file}: {error}; calibrate again or remove it") from error


def fit(outcomes: Iterable[Answered], share: float) -> tuple[dict[str, Kept], list[Fit]]:
    """The calibrations of all models and adapters, so that of answers like these at most `share` are sent on.

    The error is that of the second half under a calibration made from the first: of what it was made from, an isotonic
    regression has none.

    Raises:
        AgentError: of a model and adapter there are too few outcomes.
    """
    by_key: dict[str, list[Answered]] = {}
    for one in outcomes:
        by_key.setdefault(_key(one.model, one.adapter), []).append(one)
    kept, fits = dict[str, Kept](), list[Fit]()
    for key, some in by_key.items():
        random.Random(0).shuffle(some)  # they may stand in an order that says something
        half = len(some) // 2
        whole, first = calibrate(some), calibrate(some[:half])
        if whole is None or first is None:
            need = f"at least {2 * MIN_OUTCOMES} are needed"
            raise AgentError(f"cannot calibrate {key}: it has {len(some)} outcomes; {need}")
        probabilities = [whole.probability(one.confidence) for one in some]
        at = threshold(probabilities, share)
        kept[key] = Kept(whole, min(at, 1.0))
        error = calibration_error([(first.probability(one.confidence), one.right) for one in some[half:]])
        sent = sum(one < at for one in probabilities) / len(some)
        fits.append(Fit(some[0].model, some[0].adapter, len(some), round(sent, 4), round(error, 4)))
    return kept, fits


def _key(model: str, adapter: str | None) -> str:
    return f"{model} {adapter}" if adapter else model
