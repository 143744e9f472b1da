"""Commands of the controller to a real agent, and what it measures and says of itself."""

import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from tests.fakes.helm import Helm, now_ms
from tests.fakes.hollow_model import hollow_model
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import Lab

WORD = "marmalade"  # in a prompt, and nowhere else


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Lab]:
    """Agents of a tiny model whose answers do not end by themselves."""
    folder = tmp_path_factory.mktemp("orders")
    running = Lab(folder, broker, write_tiny_model(folder / "tiny.gguf", endless=True, context_tokens=512))
    yield running
    running.close()


@pytest.fixture(scope="module")
def helm(lab: Lab) -> Helm:
    """An enrolled agent that is online."""
    agent = lab.agent()
    helm = Helm(agent, lab.client(agent))
    agent.start().wait_online(helm.client)
    return helm


def test_a_selftest_says_how_fast_the_model_speaks(helm: Helm) -> None:
    """And nothing of what it says."""
    answer = helm.answer(helm.command("selftest"))
    assert answer["status"] == 200
    result = answer["result"]
    assert result["ok"] is True
    assert result["tok_s"] > 0
    assert set(result) == {"ok", "model", "completion_tokens", "first_token_ms", "tok_s"}


def test_the_same_command_runs_once_and_answers_again(helm: Helm) -> None:
    """With the same event, which counts once for whoever gets it; also after a kill -9 of the agent."""
    name = helm.command("restart-engine")
    assert helm.answer(name)["status"] == 200
    restarts = helm.agent.status()["engine"]["restarts"]
    assert restarts == 1
    helm.command("restart-engine", command_id=name)
    helm.client.wait(lambda _: len(helm.answers(name)) == 2)
    assert helm.agent.status()["engine"]["restarts"] == restarts
    helm.agent.stop(signal.SIGKILL)
    helm.agent.start().wait_online(helm.client)
    helm.command("restart-engine", command_id=name)
    helm.client.wait(lambda _: len(helm.answers(name)) == 3)
    assert len({msgspec.json.encode(event) for event in helm.answers(name)}) == 1
    assert helm.agent.status()["engine"]["restarts"] == 0


def test_commands_that_cannot_be_run_are_answered(helm: Helm) -> None:
    """Expired, unknown, with arguments that there are not, too far ahead."""
    expired = helm.answer(helm.command("selftest", ttl_ms=-1))
    assert (expired["status"], "it expired" in expired["error"]) == (408, True)
    unknown = helm.answer(helm.command("explode"))
    assert unknown["status"] == 404
    assert "drain, logs, restart-engine, selftest, undrain" in unknown["error"]
    assert helm.answer(helm.command("logs", lines=0))["status"] == 400
    assert helm.answer(helm.command("drain", force=True))["status"] == 400
    assert helm.answer(helm.command("selftest", ttl_ms=10**9))["status"] == 400


def test_a_retained_command_is_not_run_again(helm: Helm) -> None:
    """The broker would deliver it at each connection."""
    command = msgspec.json.encode({"id": "kept", "op": "logs", "args": {}, "exp": now_ms() + 60_000})
    helm.client.publish(f"node/{helm.agent.node}/cmd", command, retain=True)
    assert helm.answer("kept")["status"] == 200
    helm.agent.stop()
    helm.agent.start().wait_online(helm.client)
    helm.agent.wait_record("retained command is ignored")
    helm.client.publish(f"node/{helm.agent.node}/cmd", b"", retain=True)
    assert len(helm.answers("kept")) == 1


def test_what_is_no_command_is_ignored(helm: Helm) -> None:
    """There is nobody to answer."""
    helm.client.publish(f"node/{helm.agent.node}/cmd", b'{"op": "drain"}')
    helm.agent.wait_record("command cannot be read and is ignored")
    assert helm.answer(helm.command("logs", lines=1))["status"] == 200


def test_a_drained_node_takes_nothing_new_and_ends_what_it_has(helm: Helm) -> None:
    """It says so, a selftest still runs, and it takes requests again when it is told to."""
    helm.client.ask({"id": "long", "prompt": "a", "max_tokens": 300, "stream": True})
    helm.client.wait(lambda m: m.topic.endswith("/rx/long/delta"))
    helm.client.seen.clear()  # agents that ended before said that they were draining, too
    drained = helm.command("drain")
    helm.client.wait(lambda m: m.topic.endswith("/status") and m.json["s"] == "draining")
    helm.client.ask({"id": "new", "prompt": "a"})
    refused = helm.client.final("new")
    assert (refused["status"], refused["error"]["code"]) == (503, "draining")
    assert helm.answer(drained)["status"] == 200
    assert helm.client.final("long")["status"] == 200
    assert helm.answer(helm.command("selftest"))["result"]["ok"] is True
    assert helm.answer(helm.command("undrain"))["status"] == 200
    helm.client.ask({"id": "again", "prompt": "a", "max_tokens": 2})
    assert helm.client.final("again")["status"] == 200


def test_a_command_that_does_not_end_in_time_says_so(helm: Helm) -> None:
    """Its deadline is the controller's; what it has begun goes on."""
    pid = helm.agent.wait_engine()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert helm.answer(helm.command("selftest", ttl_ms=1500))["status"] in (200, 408)
        helm.client.ask({"id": "stuck", "prompt": "a", "ttl_ms": 20_000})
        late = helm.answer(helm.command("drain", ttl_ms=1500))
        assert (late["status"], "before it expired" in late["error"]) == (408, True)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert helm.answer(helm.command("undrain"))["status"] == 200


def test_the_last_lines_of_the_log_come_without_texts(helm: Helm) -> None:
    """As many as were asked for; no prompt, no answer."""
    helm.client.ask({"id": "secret", "prompt": WORD, "max_tokens": 2})
    helm.client.final("secret")
    lines = helm.answer(helm.command("logs", lines=5))["result"]["lines"]
    assert len(lines) == 5
    assert '"id": "secret"' in "".join(helm.answer(helm.command("logs"))["result"]["lines"])
    assert not [
        message for message in helm.client.seen if WORD.encode() in message.payload and "/req/" not in message.topic
    ]


def test_a_command_that_the_agent_died_of_is_answered(helm: Helm) -> None:
    """At the next start, with an error."""
    pid = helm.agent.wait_engine()
    os.kill(pid, signal.SIGSTOP)
    name = helm.command("selftest")
    helm.agent.wait_record("command", op="selftest", id=name)
    helm.agent.stop(signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    helm.agent.start().wait_online(helm.client)
    answer = helm.answer(name)
    assert (answer["status"], "ended while it ran" in answer["error"]) == (500, True)


def test_an_engine_that_cannot_run_is_told_and_so_is_that_it_runs_again(lab: Lab) -> None:
    """Each once."""
    file = hollow_model(lab.folder / "hollow.gguf")
    agent = lab.agent(model=file)
    helm = Helm(agent, lab.client(agent))
    agent.start()
    assert helm.alert("agent_started")["versions"]["shoal"]
    broken = helm.alert("engine_state", state="broken")
    assert (broken["model"], broken["problem"][:7]) == ("smollm2@1", "cannot ")
    write_tiny_model(file)
    assert helm.alert("engine_state", state="ready") == {"model": "smollm2@1", "state": "ready", "problem": ""}
    assert [alert["state"] for alert in helm.alerts("engine_state")] == ["broken", "ready"]
