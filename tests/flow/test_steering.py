"""What the controller wishes of nodes and groups, on each database."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from contract import topics
from contract.enrolment import DAY_MS
from contract.signed import Accepted, Time, Trust, key_id, verify
from contract.steering import Command, Desired, Policy
from fleet.api.steering import CommandOutcome, WishChange
from fleet.database import identities
from fleet.database.tables import audit
from fleet.errors import FolderError, NotFoundError, UsageError
from fleet.steering import LIFE_MS
from tests.fakes.headquarters import KEY, START_MS, Headquarters

PUBLIC = KEY.public_key().public_bytes_raw()
TRUST = Trust({key_id(PUBLIC): PUBLIC})


@pytest.fixture
def headquarters(database_url: str) -> Iterator[Headquarters]:
    """A controller that knows two nodes."""
    made = Headquarters(database_url)
    made.join("n1", site="store-7")
    made.join("n2", site="store-8")
    yield made
    made.close()


def wish(headquarters: Headquarters, *nodes: str, **change: Any) -> list[int]:
    """Revisions after a wish."""
    wished = headquarters.steering.wish(list(nodes or ("n1",)), WishChange(**change), "ann")
    return [one.rev for one in wished]


def revs(headquarters: Headquarters, node: str = "n1") -> list[int]:
    """Of the documents that were published."""
    return [document.rev for document in headquarters.documents(node)]


def test_a_wish_is_a_signed_document_that_the_node_takes(headquarters: Headquarters) -> None:
    """Bound to node, revision and time; the audit says who wished for what."""
    assert wish(headquarters, settings={"log.level": "debug"}, model="smol@1", adapters=["tone@1"]) == [1]
    topic, payload = headquarters.posts[-1]
    assert topic == topics.NodeDesired("n1")
    taken = verify(payload, Desired, "n1", None, TRUST, Time(headquarters.now_ms))
    assert isinstance(taken, Accepted)
    assert taken.document == Desired(
        node="n1", rev=1, issued=START_MS, exp=START_MS + LIFE_MS, model="smol@1", adapters=["tone@1"],
        settings={"log.level": "debug"},
    )  # fmt: skip
    with headquarters.database.read() as connection:
        lines = connection.execute(select(audit.c.actor, audit.c.action, audit.c.subject, audit.c.detail)).all()
    assert [tuple(line)[:3] for line in lines] == [("ann", "wish", "n1")]
    assert "debug" in lines[0].detail


def test_only_another_content_is_another_revision(headquarters: Headquarters) -> None:
    """What is wished again is there already; a part that is not named stays; None goes back to the node's own."""
    assert wish(headquarters, settings={"log.level": "debug"}) == [1]
    assert wish(headquarters, settings={"log.level": "debug"}) == [1]
    assert wish(headquarters, model="smol@1") == [2]
    assert wish(headquarters, "n1", "n2", settings={"log.level": None}) == [3, 0]
    assert revs(headquarters) == [1, 2, 3]
    assert headquarters.documents("n1")[-1].model == "smol@1"
    assert headquarters.documents("n1")[-1].settings == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"settings": {"log.levle": "debug"}}, "did you mean"),
        ({"settings": {"limits.queue": 0}}, "cannot set limits.queue"),
        ({"adapters": ["x" * 100] * 1000}, "cannot wish for 1000 adapters"),
    ],
)
def test_what_no_node_can_be_is_refused(headquarters: Headquarters, change: dict[str, Any], why: str) -> None:
    """Before anything is stored or sent."""
    with pytest.raises(UsageError, match=why):
        wish(headquarters, **change)
    with pytest.raises(NotFoundError, match="cannot find node 'n7'"):
        wish(headquarters, "n1", "n7", settings={"log.level": "debug"})
    assert headquarters.posts == []


def test_work_for_a_node_that_never_came_waits(headquarters: Headquarters) -> None:
    """It is enough that it has enrolled."""
    with headquarters.database.write() as connection:
        identities.add_identity(connection, "n9", "node", START_MS)
    assert wish(headquarters, "n9", settings={"log.level": "debug"}) == [1]
    assert revs(headquarters, "n9") == [1]


def test_an_older_report_brings_the_document_again(headquarters: Headquarters) -> None:
    """The same bytes; a node that has it is left alone."""
    wish(headquarters, settings={"log.level": "debug"})
    headquarters.report("n1", 0, "idle")
    assert headquarters.posts[0] == headquarters.posts[1]
    headquarters.report("n1", 1)
    assert len(headquarters.posts) == 2


def test_what_was_wished_without_a_connection_goes_out_later(headquarters: Headquarters) -> None:
    """Policies too; what nodes have already reported does not go again."""
    wish(headquarters, "n1", "n2", settings={"log.level": "debug"})
    headquarters.report("n2", 1)
    headquarters.connected = False
    wish(headquarters, settings={"log.level": "error"})
    headquarters.steering.save_group("stores", "site~store-", "ann")
    headquarters.steering.set_policy("stores", {"limits.queue": 9}, "ann")
    headquarters.posts.clear()
    headquarters.connected = True
    headquarters.report("n2", 2)
    headquarters.steering.resend()
    assert [topic for topic, _ in headquarters.posts] == [topics.NodeDesired("n1"), topics.GroupPolicy("stores")]


def test_documents_are_renewed_at_half_their_life(headquarters: Headquarters) -> None:
    """With the same content and a new revision, because their text is another one."""
    wish(headquarters, settings={"log.level": "debug"})
    headquarters.steering.save_group("stores", "site=store-7", "ann")
    headquarters.steering.set_policy("stores", {"limits.queue": 9}, "ann")
    headquarters.steering.renew()
    assert (revs(headquarters), len(headquarters.policies("stores"))) == ([1, 2], 1)
    headquarters.now_ms += LIFE_MS // 2 + DAY_MS
    headquarters.steering.renew()
    headquarters.steering.renew()
    old, new = headquarters.documents("n1")[-2:]
    assert new == msgspec.structs.replace(old, rev=3, issued=headquarters.now_ms, exp=headquarters.now_ms + LIFE_MS)
    assert [policy.rev for policy in headquarters.policies("stores") if policy] == [1, 2]


def test_groups_follow_the_cards(headquarters: Headquarters) -> None:
    """A node is told of the groups with a policy that it fits, when its card changes and when the group does."""
    steering = headquarters.steering
    steering.save_group("stores", "site~store-", "ann")
    assert headquarters.posts == []  # without a policy it says nothing to anybody
    assert steering.set_policy("stores", {"limits.queue": 9}, "ann") == 1
    assert steering.set_policy("stores", {"limits.queue": 9}, "ann") == 1
    assert [policy.settings for policy in headquarters.policies("stores") if policy] == [{"limits.queue": 9}]
    assert [document.groups for document in headquarters.documents("n2")] == [["stores"]]
    headquarters.card("n2", site="depot")
    assert headquarters.documents("n2")[-1].groups == []
    steering.save_group("stores", "site=depot", "ann")
    assert headquarters.documents("n2")[-1].groups == ["stores"]
    assert headquarters.documents("n1")[-1].groups == []
    assert [(group.name, group.num_nodes, group.rev) for group in steering.groups()] == [("stores", 1, 1)]
    steering.delete_group("stores", "ann")
    assert headquarters.documents("n2")[-1].groups == []
    assert headquarters.policies("stores")[-1] is None
    with pytest.raises(NotFoundError, match="cannot find group 'stores'"):
        steering.set_policy("stores", {}, "ann")


def test_a_group_that_is_made_again_goes_on_counting(headquarters: Headquarters, database_url: str) -> None:
    """Nodes remember the revision of a policy by the group's name."""
    for number in (1, 2):
        headquarters.steering.save_group("stores", "site~store-", "ann")
        assert headquarters.steering.set_policy("stores", {"limits.queue": number}, "ann") == number
        headquarters.steering.delete_group("stores", "ann")
    again = Headquarters(database_url)
    again.steering.save_group("stores", "site~store-", "ann")
    assert again.steering.set_policy("stores", {"limits.queue": 3}, "ann") == 3
    again.close()


@pytest.mark.parametrize("query", ["online", "site=store-7 and not last_seen<2h", "rev<5", "phase=confirmed"])
def test_what_changes_by_itself_decides_no_policy(headquarters: Headquarters, query: str) -> None:
    """Such a query can be saved and looked through, but nodes would come and go with each revision."""
    headquarters.steering.save_group("moment", query, "ann")
    with pytest.raises(UsageError, match="which changes from moment to moment"):
        headquarters.steering.set_policy("moment", {"limits.queue": 9}, "ann")
    headquarters.steering.save_group("moment", "site=store-7", "ann")
    headquarters.steering.set_policy("moment", {"limits.queue": 9}, "ann")
    with pytest.raises(UsageError, match="which changes from moment to moment"):
        headquarters.steering.save_group("moment", query, "ann")


def test_a_restart_goes_on_where_it_was(headquarters: Headquarters, database_url: str) -> None:
    """The same revision is the same bytes, and the next one is the next."""
    wish(headquarters, settings={"log.level": "debug"})
    again = Headquarters(database_url, now_ms=START_MS + 1000)
    again.steering.resend()
    assert again.posts == headquarters.posts
    assert wish(again, settings={"log.level": "error"}) == [2]
    again.close()


def test_two_controllers_do_not_give_out_one_revision(headquarters: Headquarters, database_url: str) -> None:
    """The database refuses the second, and nothing of it is published."""
    other = Headquarters(database_url)
    wish(other, settings={"log.level": "debug"})
    with pytest.raises(FolderError, match="cannot give out a revision twice"):
        wish(headquarters, settings={"log.level": "error"})
    assert headquarters.posts == []
    other.close()


@pytest.mark.parametrize("witness", ["report", "broker"])
def test_a_database_from_a_backup_reuses_no_revision(tmp_path: Path, witness: str) -> None:
    """What nodes report, and what the broker keeps, says how far it was; what it wishes for goes out above that."""
    before = Headquarters(f"sqlite:///{tmp_path / 'fleet.db'}")
    before.join("n1")
    before.steering.save_group("all", "node=n1", "ann")
    wish(before, settings={"log.level": "debug"})
    before.close()
    shutil.copy(tmp_path / "fleet.db", tmp_path / "backup.db")
    after = Headquarters(f"sqlite:///{tmp_path / 'fleet.db'}")
    for level in ("info", "error", "warning"):
        wish(after, settings={"log.level": level})
    after.steering.set_policy("all", {"limits.queue": 9}, "ann")
    after.close()

    restored = Headquarters(f"sqlite:///{tmp_path / 'backup.db'}")
    if witness == "report":
        restored.report("n1", 5)
    else:
        for topic, payload in dict(after.posts).items():  # a broker keeps the last of each
            restored.hear(topic, payload, retained=True)
        assert restored.policies("all")[-1] is None  # it knows of no such policy
        assert restored.steering.set_policy("all", {"limits.queue": 8}, "ann") == 2
    assert revs(restored)[0] == 6
    assert restored.documents("n1")[0].settings == {"log.level": "debug"}
    restored.close()


def command(headquarters: Headquarters, node: str = "n1", **answer: Any) -> CommandOutcome:
    """A command, and what the node answers (nothing: it does not)."""

    def reply(payload: bytes) -> None:
        sent = msgspec.json.decode(payload, type=Command)
        for _ in range(2):  # from the outbox it may come twice
            headquarters.event(node, "logs", {"id": sent.id, **answer}, kind="cmd")

    headquarters.on_command = reply if answer else None
    timeout_s = 20.0 if answer else 0.05
    return asyncio.run(headquarters.steering.command(node, "logs", {"lines": 5}, timeout_s=timeout_s, actor="ann"))


def test_a_command_ends_with_its_answer(headquarters: Headquarters) -> None:
    """Done or failed, as the node says."""
    done = command(headquarters, status=200, result={"lines": ["a"]})
    assert (done.outcome, done.status, done.result) == ("done", 200, {"lines": ["a"]})
    failed = command(headquarters, "n2", status=503, error="cannot drain twice")
    assert (failed.outcome, failed.error) == ("failed", "cannot drain twice")


def test_a_command_without_an_answer_ends_too(headquarters: Headquarters) -> None:
    """Late with its deadline, at once when the node is not there or there is no broker."""
    assert command(headquarters).outcome == "late"
    assert command(headquarters, "n2", status=408).outcome == "late"
    headquarters.status("n1", "lost")
    assert command(headquarters).outcome == "offline"
    headquarters.status("n1")
    headquarters.connected = False
    assert command(headquarters).outcome == "offline"


@pytest.mark.parametrize(("node", "op", "timeout_s"), [("n1", "reboot", 1.0), ("n1", "logs", 0.0), ("n7", "logs", 1.0)])
def test_what_is_no_command_is_refused(headquarters: Headquarters, node: str, op: str, timeout_s: float) -> None:
    """An operation that no node knows, a time that cannot be waited, a node that does not exist."""
    with pytest.raises(UsageError, match=r"^cannot "):
        asyncio.run(headquarters.steering.command(node, op, {}, timeout_s=timeout_s, actor="ann"))


def test_a_policy_is_signed_too(headquarters: Headquarters) -> None:
    """And bound to its group."""
    headquarters.steering.save_group("stores", "site~store-", "ann")
    headquarters.steering.set_policy("stores", {"limits.queue": 9}, "ann")
    payload = next(payload for topic, payload in headquarters.posts if topic == topics.GroupPolicy("stores"))
    assert isinstance(verify(payload, Policy, "stores", None, TRUST, Time(START_MS)), Accepted)


def test_the_key_of_a_wish_is_its_revision(headquarters: Headquarters) -> None:
    """Also a fault in this program cannot store two documents with one revision."""
    document = Desired(node="n1", rev=1, issued=1, exp=2)
    with headquarters.database.write() as connection:
        headquarters.inventory.wishes.write(connection, [document])
    with pytest.raises(IntegrityError), headquarters.database.write() as connection:
        headquarters.inventory.wishes.write(connection, [document])
