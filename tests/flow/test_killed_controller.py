"""The controller is killed (SIGKILL) before and after every statement, commit and message, on each database."""

import base64
import json
import multiprocessing
import os
import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import event

from contract import topics
from fleet.api.steering import WishChange
from fleet.beginning import begin
from fleet.database.store import Database
from fleet.enrolment import Enrolment
from fleet.errors import EnrolmentError
from fleet.folder import Folder
from fleet.rollout.amount import Amount
from fleet.rollout.plan import Plan, Thresholds
from fleet.rollout.state import Phase
from fleet.steering import LIFE_MS
from tests.fakes.controller import settings
from tests.fakes.crew import Crew
from tests.fakes.headquarters import START_MS, Headquarters
from tests.fakes.signing_requests import request

FORK = multiprocessing.get_context("fork")


class Fate:
    """Kills its process at the point of this number, counted from 1."""

    def __init__(self, at: int) -> None:
        self._left = at

    def point(self, *_: Any) -> None:
        """A point at which it may come."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hang_over(self, database: Database, *names: str) -> None:
        """Every statement and commit of a database becomes a point; with names, only what they say."""
        for name in names or ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(database.engine, name, self.point)


def publish_into(headquarters: Headquarters, log: Path, fate: Fate) -> None:
    """What is published stands in a file, as it would on a broker."""

    def post(topic: topics.Topic, payload: bytes) -> bool:
        fate.point()
        with log.open("ab", buffering=0) as file:
            file.write(json.dumps([topic.path("home"), base64.b64encode(payload).decode()]).encode() + b"\n")
        fate.point()
        return True

    headquarters.steering._post = headquarters.rollouts._post = post


def steer(url: str, log: Path, at: int) -> None:
    """Wishes, a group, a policy, a card that moves a node, a renewal."""
    headquarters, fate = Headquarters(url), Fate(at)
    publish_into(headquarters, log, fate)
    fate.hang_over(headquarters.database)
    steering = headquarters.steering
    for level in ("debug", "error"):
        steering.wish(["n1", "n2"], WishChange(settings={"log.level": level}), "ann")
    steering.save_group("stores", "site~store", "ann")
    steering.set_policy("stores", {"limits.queue": 9}, "ann")
    headquarters.card("n2", site="depot")
    headquarters.now_ms += LIFE_MS
    steering.renew()
    steering.delete_group("stores", "ann")


def end_of(target: Any, *words: Any) -> int:
    """Runs a function in a process of its own; its exit code."""
    process = FORK.Process(target=target, args=words)
    process.start()
    process.join(60)
    return int(process.exitcode if process.exitcode is not None else 1)


@pytest.mark.timeout(600)
def test_no_revision_is_reused_wherever_it_is_killed(database_url: str, tmp_path: Path) -> None:
    """Of all that was ever published, before and after, one revision of one addressee is one text."""
    log = tmp_path / "published"
    first = Headquarters(database_url)
    for node in ("n1", "n2"):
        first.join(node, site="store-7")
    first.close()
    at = 0
    while True:
        at += 1
        code = end_of(steer, database_url, log, at)
        assert code in (0, -signal.SIGKILL)
        check(database_url, log, at)
        if code == 0:
            break
    assert at > 60  # it was killed, and often


def check(url: str, log: Path, at: int) -> None:
    """A new controller goes on; what it publishes fits what was published before."""
    after = Headquarters(url)
    publish_into(after, log, Fate(0))
    after.steering.resend()
    after.steering.wish(["n1", "n2"], WishChange(settings={"limits.queue": at}), "ann")
    texts: dict[tuple[str, int], set[str]] = defaultdict(set)
    for line in log.read_bytes().splitlines():
        topic, payload = json.loads(line)
        if payload:
            text = json.loads(base64.b64decode(payload))["payload"]
            texts[topic, json.loads(text)["rev"]].add(text)
    assert max(map(len, texts.values())) == 1
    for node in ("n1", "n2"):
        path = topics.NodeDesired(node).path("home")
        newest = max(rev for topic, rev in texts if topic == path)
        held = after.inventory.wishes.held(node)
        assert held
        assert (newest, {held.text.decode()}) == (held.rev, texts[path, newest])
    after.close()


CREW = ("n1", "n2")
ROLLED = Plan(
    id="", release="", targets="site=here", waves=(Amount(1), Amount(2)), soak_ms=0, max_unavailable=Amount(1),
    success=Thresholds(), abort=Thresholds(rejected=Amount(0)),
)  # fmt: skip


def roll(headquarters: Headquarters, at: int) -> None:
    """A release that goes to two nodes, then one that the first of them turns away; what is done is not done again."""
    good, bad = f"m@{at}", f"m@{at}-bad"
    crew = Crew(headquarters, CREW, bad)
    headquarters.approved |= {(release, "model") for release in (good, bad)}
    for release in (good, bad):
        known = {one.plan.release for one in headquarters.rollouts.newest(2)}
        if release not in known:
            headquarters.rollouts.start(replace(ROLLED, release=release), "ann")
        crew.settle()


def roll_until_killed(url: str, log: Path, at: int) -> None:
    """Every commit and every message of a rollout is a point; what is not committed was never there."""
    headquarters, fate = Headquarters(url), Fate(at)
    publish_into(headquarters, log, fate)
    fate.hang_over(headquarters.database, "commit")
    roll(headquarters, at)


@pytest.mark.timeout(600)
def test_no_node_has_two_targets_wherever_a_rollout_is_killed(database_url: str, tmp_path: Path) -> None:
    """What was published is what was stored before; the next controller goes on, and each node has each target once."""
    log = tmp_path / "published"
    at, code = 0, 1
    while code != 0:
        at += 1 if database_url.startswith("sqlite") else 7  # all points once, on the other database some
        log.unlink(missing_ok=True)
        code = end_of(roll_until_killed, database_url, log, at)
        after = Headquarters(database_url)
        stored = {one.plan.release: after.rollouts.get(one.plan.id).state.nodes for one in after.rollouts.newest(2)}
        for node, models in wished(log).items():
            assert all(node in stored[model] for model in models), "wished before it was stored"
        publish_into(after, log, Fate(0))
        after.steering.resend()
        roll(after, at)
        assert [one.state.phase for one in after.rollouts.newest(2)] == [Phase.ABORTED, Phase.COMPLETED]
        good, bad = f"m@{at}", f"m@{at}-bad"
        assert sorted(wished(log).values(), key=len) == [[good], [good, bad, good]]
        after.close()
    assert at > 30


def wished(log: Path) -> dict[str, list[str]]:
    """The models that were published for each node, in order, without repetitions."""
    found: dict[str, list[str]] = {node: [] for node in CREW}
    for line in log.read_bytes().splitlines() if log.exists() else ():
        topic, payload = json.loads(line)
        if topic.endswith("/desired"):
            document = json.loads(json.loads(base64.b64decode(payload))["payload"])
            models = found[document["node"]]
            if models[-1:] != [document["model"]]:
                models.append(document["model"])
    return found


def enrol(folder: Folder, token: str, csr: str, log: Path, at: int) -> None:
    """Uses a token; a certificate that leaves the process stands in a file."""
    office = Headquarters(folder.database_url)
    fate = Fate(at)
    fate.hang_over(office.database)
    issued = Enrolment(folder, office.database, lambda: START_MS).enrol(token, csr)
    fate.point()
    with log.open("a") as file:
        file.write(issued.certificate)


@pytest.mark.timeout(300)
def test_no_token_is_good_twice_wherever_it_is_killed(database_url: str, tmp_path: Path) -> None:
    """Whatever the point, a token has given one certificate at most, and a used one gives none."""
    folder = begin(tmp_path / "ctl", settings())
    assert folder
    folder = Folder(folder.path, settings(database_url))
    office = Headquarters(database_url)
    enrolment = Enrolment(folder, office.database, lambda: START_MS)
    at, code = 0, 1
    while code != 0:
        at += 1
        log, node = tmp_path / f"issued-{at}", f"n{at}"
        token, csr = enrolment.create_token("node", node, 60_000, actor="test"), request(node)
        code = end_of(enrol, folder, token, csr, log, at)
        given = log.exists()
        try:
            enrolment.enrol(token, csr)
            assert not given
        except EnrolmentError as error:
            assert error.code == "token_used"
        with pytest.raises(EnrolmentError):
            enrolment.enrol(token, csr)
    assert at > 5
    office.close()
