"""Where a prompt may go."""

import ast
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.privacy import Cleared, Cloud, Peer, Way, clear, may_leave
from agent.redaction import Redactor
from contract.errors import Refused
from contract.requests import Handed, Privacy, Request

HERE, THERE, CLOUD = Peer("n2", "cellar"), Peer("n3", "attic"), Cloud()
ALLOWED: dict[str | None, set[Way]] = {
    None: set(),
    "local": set(),
    "site": {HERE},
    "redact": {HERE, CLOUD},
    "any": {HERE, CLOUD},
}
TEXT = "tell Anna Lang under a@b.de"


def cleared(request: Request, way: Way, own_site: str = "cellar") -> Cleared:
    """What leaves of a client's request that waits too long here."""
    return clear(request, way, client="app", why="queue", own_site=own_site, redactor=Redactor())


@pytest.mark.parametrize("way", [HERE, THERE, CLOUD], ids=["neighbour", "other site", "cloud"])
@pytest.mark.parametrize("privacy", [None, *get_args(Privacy)])
def test_each_privacy_has_its_ways_and_no_other(privacy: Privacy | None, way: Way) -> None:
    """What says nothing stays; the site of the other node counts, not that there is one."""
    request = Request(prompt=TEXT, privacy=privacy)
    assert may_leave(privacy, way, "cellar") == (way in ALLOWED[privacy])
    if way in ALLOWED[privacy]:
        text = "tell [NAME_1] under [MAIL_1]" if privacy == "redact" and way == CLOUD else TEXT
        assert cleared(request, way).request.prompt == text
        return
    with pytest.raises(Refused) as refused:
        cleared(request, way)
    assert (refused.value.status, refused.value.code) == (403, "privacy")
    assert TEXT not in refused.value.message


def test_nodes_without_a_site_are_no_neighbours() -> None:
    """Two that name none are not on the same one."""
    assert not may_leave("any", Peer("n2", ""), "")


def test_what_leaves_is_recorded_by_its_digest() -> None:
    """Of the redacted text, which is what left, with how much was taken out; never of the text before."""
    request = Request(prompt=TEXT, privacy="redact")
    left = cleared(request, CLOUD)
    assert left.sha256 == left.request.texts_sha256 != request.texts_sha256
    assert left.redacted == {"name": 1, "mail": 1}


def test_who_gets_a_request_learns_no_more_than_it_needs() -> None:
    """A neighbour keeps model and adapter; a cloud has models of its own. Where the answer goes is known here."""
    request = Request(prompt="x", privacy="any", model="m", adapter="a", conversation="anna", reply_to="t")
    peer, cloud = cleared(request, HERE).request, cleared(request, CLOUD).request
    assert (peer.model, peer.adapter, cloud.model, cloud.adapter) == ("m", "a", None, None)
    for left in (peer, cloud):
        assert (left.conversation, left.reply_to) == (None, None)
        assert left.handed == Handed("app", "queue")


@given(st.sampled_from([None, *get_args(Privacy)]), st.sampled_from([HERE, THERE, CLOUD]), st.text(), st.text())
def test_no_local_prompt_is_ever_cleared(privacy: Privacy | None, way: Way, text: str, own_site: str) -> None:
    """Whatever the text and the sites."""
    try:
        left = cleared(Request(prompt=text or "x", privacy=privacy), way, own_site)
    except Refused:
        return
    assert privacy not in (None, "local")
    assert privacy != "site" or (isinstance(left.way, Peer) and left.way.site == own_site)


def test_only_one_function_clears() -> None:
    """Nobody else makes what senders take."""
    for path in Path("agent").rglob("*.py"):
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "Cleared" not in calls or path == Path("agent/privacy.py"), path
