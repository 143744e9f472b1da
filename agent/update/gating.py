"""The gate at work: lets a candidate and what serves now show what they can, one after the other, and judges.

Where there is no memory for one more engine, those that answer requests end for it and what is asked of them waits.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from agent import machine
from agent.catalog import Catalog
from agent.config import Config
from agent.engine import frames
from agent.engine.address_space import address_space_bytes
from agent.engine.supervisor import Plan
from agent.errors import EngineError, ModelError
from agent.memory import Need, NoRoomError
from agent.models import Manner, ModelFile, examine_model
from agent.update.errors import UpdateRefused, UpdateTroubled
from agent.update.gate import Trial, Verdict, decide
from agent.update.trial import Subject, show, speed
from agent.update.trial_engine import NotPossibleError
from agent.weights.flat import flat_matrices
from contract.release import Release

PARALLEL = 2  # streams of a trial
# The speed of a candidate that is only too slow is looked at again, with the baseline's: others may have had the
# processor. So is all of one whose engine ended: others may have had the memory.
LOOKS = 3
_NUMBERS = ("text_bits", "chat_bits", "perplexity", "tok_s", "memory_bytes", "unknown_marks")


class Gating:
    """Judges releases on this node."""

    def __init__(self, config: Config, models: Catalog) -> None:
        self._config = config
        self._models = models
        self._known: tuple[Plan, Trial] | None = None  # what the model that serves has shown

    async def judge(self, release: Release, file: Path) -> tuple[Verdict, dict[str, Any]]:
        """The verdict on a release whose whole file is there, and what is told of it: numbers, no texts.

        Raises:
            UpdateRefused: it fits into no memory, whatever ends for it.
            UpdateTroubled: it could not be tried this time.
        """
        serving = self._models.default.model if self._models.default else None
        try:
            candidate = self._candidate(release, file, serving)
            flat = await asyncio.to_thread(flat_matrices, file) if release.kind == "model" else []
        except (ModelError, OSError) as error:
            verdict = Verdict(False, (str(error),))
            return verdict, _told(verdict, None, None)
        if flat:
            verdict = Verdict(False, (f"{len(flat)} of its matrices are the same everywhere, {flat[0]} is the first",))
            return verdict, _told(verdict, None, None)
        baseline = self._subject(serving) if serving else None
        try:
            async with self._models.guest(release.reference, candidate.need):
                return await self._look(release, candidate.subject, baseline)
        except NoRoomError as error:
            raise UpdateRefused(str(error)) from error
        except EngineError as error:
            raise UpdateTroubled(str(error)) from error

    async def _look(
        self, release: Release, candidate: Subject, serving: Subject | None
    ) -> tuple[Verdict, dict[str, Any]]:
        verdict, baseline, trial = Verdict(False), None, None
        for _ in range(LOOKS):
            baseline = await self._baseline(serving) if serving else None
            try:
                if trial is None:
                    trial = await show(candidate, release, self._embedder())
                else:  # and was too slow
                    trial = msgspec.structs.replace(trial, tok_s=await speed(candidate))
            except NotPossibleError as error:
                verdict = Verdict(False, (str(error),))
            except EngineError as error:
                verdict = Verdict(False, (f"its engine does not run: {error}",), is_doubtful=True)
            else:
                verdict = decide(release, trial, baseline, self._models.budget_bytes)
            if not verdict.is_doubtful:
                break
        return verdict, _told(verdict, trial, baseline)

    async def _baseline(self, serving: Subject) -> Trial:
        """What it shows. Most of it never changes; its speed is that of now, with the other work on the node."""
        if self._known is None or self._known[0] != serving.plan:
            self._known = (serving.plan, await show(serving, None, None))
            return self._known[1]
        return msgspec.structs.replace(self._known[1], tok_s=await speed(serving))

    def _candidate(self, release: Release, file: Path, serving: ModelFile | None) -> "_Tried":
        if release.kind == "adapter":
            if serving is None:
                raise ModelError(f"cannot try {release.reference}: this node has no model for it")
            return _Tried(self._subject(serving, adapter=file), self._need(serving))
        model = msgspec.structs.replace(examine_model(file), sha256=release.file.sha256, manner=Manner.of(release))
        if model.task != "generate":
            raise ModelError(f"cannot use {release.reference}: it makes embeddings, and default models generate text")
        return _Tried(self._subject(model), self._need(model))

    def _subject(self, model: ModelFile, adapter: Path | None = None) -> Subject:
        settings = self._config.engine
        threads = settings.threads or machine.num_cores()
        need = self._need(model)
        return Subject(
            Plan(
                file=str(model.path),
                sha256=model.sha256,
                context_tokens=model.context_tokens(self._config.model.context_tokens),
                parallel=PARALLEL,
                threads=threads,
                start_timeout_s=settings.start_timeout_s,
                stall_s=settings.stall_s,
                address_space_bytes=address_space_bytes(
                    weights_bytes=model.bytes, kv_bytes=need.kv_bytes, threads=threads
                ),
                chat_template=model.manner.chat_template,
            ),
            self._models.default.rung if self._models.default else None,
            adapter,
        )

    def _need(self, model: ModelFile) -> Need:
        # One stream more: texts are scored in a context of their own.
        return model.need(
            context_tokens=self._config.model.context_tokens, parallel=PARALLEL + 1, batch_tokens=frames.BATCH_TOKENS
        )

    def _embedder(self) -> Subject | None:
        """A model of this node that tells how similar answers are."""
        found = next((file for file in self._models.files if file.task == "embed"), None)
        return self._subject(found) if found else None


class _Tried(msgspec.Struct, frozen=True):
    subject: Subject
    need: Need


def _told(verdict: Verdict, trial: Trial | None, baseline: Trial | None) -> dict[str, Any]:
    """What is reported and kept."""

    def numbers(shown: Trial | None) -> dict[str, float]:
        values = {name: getattr(shown, name) for name in _NUMBERS} if shown else {}
        return {name: round(value, 4) for name, value in values.items() if value is not None}

    return {
        "passed": verdict.passed, "reasons": list(verdict.reasons), "measured": numbers(trial),
        "baseline": numbers(baseline),
    }  # fmt: skip
