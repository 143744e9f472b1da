"""Own answers first; unsure ones are asked for again."""

import asyncio
import json
import random
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.cascade import Cascade
from agent.errors import AgentError, ConfigError
from agent.job import Job
from agent.sureness import FILE, Answered, Sureness, fit, load, store
from contract.answers import Accepted, Final
from contract.requests import Request

OWN = Final(id="r", status=200, text="own", model="m@1", adapter=None, confidence=0.3, served_by="local")
FAR = Final(id="r", status=200, text="far", served_by="cloud:one", why="confidence")
SURENESS = Sureness({"m@1": 0.5})


class Script:
    """Ends every job with one final; keeps what it was told."""

    def __init__(self, final: Final) -> None:
        self.final = final
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []

    def submit(self, job: Job) -> None:
        """Ends it at once."""
        self.jobs.append(job)
        self.task = asyncio.ensure_future(job.on_final(self.final))

    def accepted(self, job: Job) -> Accepted:
        """It waits."""
        return Accepted(id=job.id, node="n1", queue=0, model="m@1")

    def cancel(self, job: Job) -> None:
        """Notes it."""
        self.cancelled.append(job)


def answer(own: Final, far: Final, *, left_s: float = 9.0) -> tuple[Final, int]:
    """What a client gets, and how often the cloud was asked."""

    async def whole() -> tuple[Final, int]:
        ended: asyncio.Future[Final] = asyncio.get_running_loop().create_future()

        async def end(final: Final) -> None:
            ended.set_result(final)

        now = time.monotonic()
        job = Job(
            client="app", id="r", request=Request(prompt="x"), arrived=now, deadline=now + left_s,
            on_delta=lambda _: None, on_final=end,
        )  # fmt: skip
        local, cloud = Script(own), Script(far)
        going = Cascade(local, lambda: cloud, SURENESS.is_enough)
        going.submit(job)
        assert going.accepted(job).queue == 0
        going.cancel(job)
        assert local.cancelled == [job]
        final = await ended
        if cloud.jobs:
            going.cancel(job)
            assert cloud.cancelled == cloud.jobs
        return final, len(cloud.jobs)

    return asyncio.run(whole())


def test_a_sure_answer_stays_and_an_unsure_one_is_asked_for_again() -> None:
    """By what is kept of its model; one of another model, or without a confidence, stays."""
    assert answer(OWN, FAR) == (FAR, 1)
    for own in (replace(OWN, confidence=0.5), replace(OWN, model="other@1"), replace(OWN, adapter="a@1")):
        assert answer(own, FAR) == (own, 0)


@pytest.mark.parametrize("status", [403, 408, 429, 502])
def test_the_own_answer_is_kept_for_when_the_cloud_has_none(status: int) -> None:
    """It says why it should have been another."""
    final, _ = answer(OWN, Final(id="r", status=status))
    assert (final.status, final.text, final.served_by, final.why) == (200, "own", "local", "confidence")


def test_what_failed_or_is_late_is_not_asked_for_again() -> None:
    """An error stays one, and the deadline holds."""
    failed = Final(id="r", status=422, text="own", model="m@1", confidence=0.1)
    assert answer(failed, FAR) == (failed, 0)
    assert answer(OWN, FAR, left_s=0.0) == (OWN, 0)


def outcomes(number: int) -> list[Answered]:
    """Right with the square of the confidence."""
    rng = random.Random(number)
    sure = [rng.random() for _ in range(number)]
    return [Answered(one, rng.random() < one**2, model="m@1", adapter="a@2") for one in sure]


def test_calibrating_keeps_the_share_and_says_how_good_it_is(tmp_path: Path) -> None:
    """The least probable tenth would be sent; the calibration error on the other half is small."""
    logged = outcomes(8_000)
    [one] = fit(logged, 0.1)
    assert (one.model, one.adapter, one.outcomes) == ("m@1", "a@2", 8_000)
    assert one.sent == 0.1
    assert one.right < 0.05
    assert one.error <= 0.05
    store(tmp_path, [one])
    judge = load(tmp_path)
    finals = [replace(OWN, adapter="a@2", confidence=answer.confidence) for answer in logged]
    assert sum(not judge.is_enough(final) for final in finals) / len(finals) == one.sent
    assert judge.knows("m@1")
    assert not judge.knows("m")
    with pytest.raises(AgentError, match="at least 100"):
        fit(outcomes(99), 0.1)
    assert load(tmp_path / "new").is_enough(OWN)
    (tmp_path / FILE).write_text(json.dumps({"m@1": "x"}))
    with pytest.raises(ConfigError, match="calibrate again"):
        load(tmp_path)
