"""An agent whose connection to the broker is harmed in every way that TCP and MQTT allow, by seeds."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from contract.steering import Telemetry
from contract.telemetry import OVERHEAD_BYTES, PACES, SysRow, unpack
from tests.fakes.chaos_proxy import ChaosProxy
from tests.fakes.helm import Helm
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.packet_proxy import PacketProxy
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.waiting import until
from tests.system.conftest import Lab

SEEDS = 24
PACKET_SEEDS = 12
FAULTS = 5  # of each trouble, at least


@pytest.fixture(scope="module")
def proxy(broker: Mosquitto) -> Iterator[ChaosProxy]:
    """What stands between the agent and the broker."""
    running = ChaosProxy(broker.port)
    yield running
    running.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, broker: Mosquitto) -> Iterator[Lab]:
    """Agents of a tiny model."""
    folder: Path = tmp_path_factory.mktemp("chaos")
    running = Lab(folder, broker, write_tiny_model(folder / "tiny.gguf"))
    yield running
    running.close()


def behind(proxy: ChaosProxy, lab: Lab) -> Helm:
    """An agent behind the proxy; the client is not."""
    agent = lab.agent(port=proxy.port)
    helm = Helm(agent, lab.client(agent, port=lab.broker.port))
    agent.start().wait_online(helm.client)
    return helm


@pytest.fixture(scope="module")
def helm(lab: Lab, proxy: ChaosProxy) -> Helm:
    """The agent that the trouble is about."""
    return behind(proxy, lab)


@pytest.fixture(scope="module")
def packet_proxy(broker: Mosquitto) -> Iterator[PacketProxy]:
    """One that knows MQTT."""
    running = PacketProxy(broker.port)
    yield running
    running.close()


@pytest.fixture(scope="module")
def packet_helm(lab: Lab, packet_proxy: PacketProxy) -> Helm:
    """An agent behind that one."""
    return behind(packet_proxy, lab)


def test_each_connection_brings_a_batch_without_a_gap(lab: Lab, proxy: ChaosProxy) -> None:
    """Numbered from 0 in each run, within the bound, with what the machine and the daemon are like."""
    helm = behind(proxy, lab)
    topic = f"/node/{helm.agent.node}/tele/sys"
    messages = []
    for _ in range(3):
        messages.append(helm.client.wait(lambda m: m.topic.endswith(topic) and m not in messages))
        proxy.cut()
    batches = [msgspec.json.decode(message.payload, type=Telemetry) for message in messages]
    assert [batch.seq for batch in batches] == [0, 1, 2]
    assert len({batch.run for batch in batches}) == 1
    pace = PACES["normal"]
    assert pace is not None
    assert all(len(message.payload) + OVERHEAD_BYTES <= pace.sys_bytes for message in messages)
    (row,) = unpack(batches[0], SysRow)
    assert (row.queue, row.queue_limit, row.models, row.quarantined) == (0, 64, 1, 0)
    assert row.engine in ("starting", "ready")
    assert row.ram_available_mib
    assert row.disk_free_mib


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_the_trouble_all_is_as_it_should_be(helm: Helm, proxy: ChaosProxy, seed: int) -> None:
    """The wish is in force and reported, every command has one answer, every request one final; no event is lost."""
    steer_through(helm, proxy, seed)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(PACKET_SEEDS))
def test_packets_that_come_twice_and_out_of_order_change_nothing(
    packet_helm: Helm, packet_proxy: PacketProxy, seed: int
) -> None:
    """The same on a connection that stands, with publications repeated (DUP) and overtaken, in both directions."""
    steer_through(packet_helm, packet_proxy, seed)


def steer_through(helm: Helm, proxy: ChaosProxy, seed: int) -> None:
    """Wishes, commands and requests in trouble; then every one of them has ended, once, as it should."""
    revs = [2 * seed + 1, 2 * seed + 2]
    proxy.trouble(seed)
    commands, requests = [], []
    for number, rev in enumerate(revs):
        helm.policy(helm.agent.node, rev, **{"limits.queue": 100 + rev})
        helm.wish(rev, groups=[helm.agent.node] if seed % 3 else [], settings={"limits.client_queue": 10 + rev})
        commands.append(helm.command("logs", lines=1, ttl_ms=600_000))
        requests.append(f"r{seed}-{number}")
        helm.client.ask({"id": requests[-1], "prompt": "a", "max_tokens": 8, "stream": True, "ttl_ms": 600_000})
    until(lambda: proxy.num_faults >= FAULTS, "trouble")
    proxy.heal()
    queue = 100 + revs[-1] if seed % 3 else 64
    helm.reported(
        lambda r: (
            (r["rev"], r["phase"], r["settings"]["limits.client_queue"], r["settings"]["limits.queue"])
            == (revs[-1], "confirmed", 10 + revs[-1], queue)
        )
    )
    for command in commands:
        assert helm.answer(command)["status"] == 200
        assert len({event["eid"] for event in helm.answers(command)}) == 1
    for request in requests:
        assert helm.client.final(request)["status"] == 200
