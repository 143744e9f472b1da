"""A node without a fleet: a broker that asks nobody who they are, and one agent."""

import shlex
import sys

import msgspec

from contract.presence import NodeState
from contract.topics import NodeRequest, NodeStatus, PlainAnswer
from fleet.broker_url import PORTS, BrokerUrl
from fleet.demo.agent import LOOK_S, Waiting, start_agent
from fleet.demo.broker import HOST, start_broker, wait_until_it_listens
from fleet.demo.stage import FLEET, NODES, Plan, Stage
from fleet.demo.trial import Trial, save_trial
from fleet.link import open_link


def start_plain(plan: Plan, port: int) -> Stage:
    """Starts broker and agent; returns when the agent is online.

    Raises:
        DemoError: something does not come up.
    """
    node, *_ = NODES
    log = plan.folder / "broker.log"
    name, broker = start_broker(plan.folder / "broker", port, log, plan.env)
    trial = Trial().with_process("broker", broker)
    save_trial(plan.folder, trial)
    wait_until_it_listens(broker, port, log)
    plan.console.print(f"Broker: {name} on {HOST}:{port}.")

    plan.console.print(f"Agent: node {node}, model {plan.model.name} …")
    url = BrokerUrl(HOST, port)
    agent = start_agent(plan, node, url)
    trial = trial.with_process(node, agent)
    save_trial(plan.folder, trial)
    waiting = Waiting(plan, {node: agent})
    with open_link(url) as link:
        link.subscribe({NodeStatus(node).path(FLEET): 1})
        while (incoming := link.next(LOOK_S)) is None or not _is_online(incoming.payload):
            waiting.check()
    waiting.end()
    return Stage(trial, lambda: open_link(url), _hints(node, url))


def _is_online(payload: bytes) -> bool:
    try:
        return msgspec.json.decode(payload, type=NodeState).s == "online"
    except msgspec.MsgspecError:
        return False


def _hints(node: str, url: BrokerUrl) -> tuple[str, ...]:
    fleet = shlex.quote(sys.argv[0])
    named = fleet if url.port == PORTS["mqtt"] else f"{fleet} --broker {url}"
    request, answer = NodeRequest(node, "me").path(FLEET), PlainAnswer("me").path(FLEET)
    return (
        f"  mosquitto_sub -h {url.host} -p {url.port} -t {answer} &",
        f"  mosquitto_pub -h {url.host} -p {url.port} -t {request} -m 'is the freezer too warm at -9?'",
        f"  {named} ask {node} 'give me one tip to save energy' --stream",
        f"  {named} status",
    )
