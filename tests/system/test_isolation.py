"""What the engine of a running agent can reach and what it knows."""

from pathlib import Path

from tests.system.conftest import Lab


def test_the_engine_is_cut_off(lab: Lab) -> None:
    """No network where the system allows it, and the status says the truth of it; no secrets; first to go."""
    node, client = lab.online(SHOAL_BROKER_KEEPALIVE_S="30", SECRET_TOKEN="zanzibar7391")
    pid = node.wait_engine()
    status = node.peek()
    assert status is not None
    client.ask({"id": "q", "prompt": "Name a colour.", "max_tokens": 2})
    assert client.final("q")["status"] == 200
    daemon, engine = Path(f"/proc/{status['pid']}"), Path(f"/proc/{pid}")
    apart = (daemon / "ns/net").readlink() != (engine / "ns/net").readlink()
    assert status["engine"]["network_isolated"] is apart
    assert ("without network" if apart else "NOT cut off") in node.command("status").stdout
    known = (engine / "environ").read_bytes()
    assert b"SHOAL_" not in known
    assert b"zanzibar7391" not in known
    threads = list((engine / "task").iterdir())
    assert {(thread / "ns/net").readlink() for thread in threads} == {(engine / "ns/net").readlink()}
    assert int((engine / "oom_score_adj").read_text()) > int((daemon / "oom_score_adj").read_text())
    limits = (engine / "limits").read_text("utf-8").splitlines()
    (space,) = [line.split()[3] for line in limits if line.startswith("Max address space")]
    assert int(space) > 2**31
    (core,) = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
    assert core == ["0", "0"]
