"""A small fleet: a controller with its broker, two agents and a client, each enrolled as a real one is."""

import shlex
import shutil
import ssl
import sys
import time
from pathlib import Path

from contract.topics import NodeRequest, PlainAnswer
from fleet.api.summary import Summary
from fleet.broker_url import BrokerUrl
from fleet.demo.agent import LOOK_S, Waiting, home_of, start_agent, write_config
from fleet.demo.broker import bindable
from fleet.demo.process import Process, last_lines
from fleet.demo.prompts import CLIENT
from fleet.demo.stage import FLEET, NODES, Plan, Stage
from fleet.demo.trial import Trial, save_trial
from fleet.errors import ControllerError, DemoError
from fleet.folder import Folder, open_folder
from fleet.link import open_link
from fleet.login import of_folder
from fleet.remote import Controller

HOST = "localhost"  # stands in the certificates
PORTS = {"https": 8443, "nodes": 8883, "clients": 8884}
SERVES_WITHIN_S = 60.0


def start_enrolled(plan: Plan) -> Stage:
    """Makes a controller and starts it, enrols two agents and a client, starts the agents, and waits for them.

    Raises:
        DemoError: something does not come up.
    """
    place = controller_folder(plan)
    for old in (place, plan.folder / CLIENT, *(home_of(plan, node) for node in NODES)):
        shutil.rmtree(old, ignore_errors=True)  # identities of an earlier controller
    ports = [f"--{name}-port={bindable(port) or bindable(0)}" for name, port in PORTS.items()]
    plan.run("fleet", "init", str(place), "--fleet", FLEET, "--host", HOST, *ports)
    log = plan.folder / "controller.log"
    serve = plan.start("fleet", "serve", str(place), "--embedded-broker", log=log)
    trial = Trial().with_process("controller", serve)
    save_trial(plan.folder, trial)
    folder = open_folder(place)
    broker = {role: BrokerUrl(HOST, folder.port(role), tls=True) for role in ("node", "client")}
    with Controller(of_folder(folder)) as controller:
        _wait_until_it_serves(controller, serve, log)
        plan.console.print(f"Controller: {folder.url}; mosquitto at {broker['node']} and {broker['client']}.")
        for node in NODES:
            config = write_config(plan, node, broker["node"])
            _enrol(plan, "token", "create", "--node", node, SHOAL_CONFIG=str(config))
        _enrol(plan, "client", "create", CLIENT)
        plan.console.print(f"Agents: {' and '.join(NODES)}, model {plan.model.name} …")
        agents: dict[str, Process] = {}
        for node in NODES:
            agents[node] = start_agent(plan, node, broker["node"])
            trial = trial.with_process(node, agents[node])
            save_trial(plan.folder, trial)
        waiting = Waiting(plan, agents)
        while controller.get("/v1/status", Summary).states.get("online") != len(NODES):
            waiting.check()
            time.sleep(LOOK_S)
    waiting.end()
    identity = plan.folder / CLIENT
    tls = ssl.create_default_context(cafile=identity / "ca.pem")
    tls.load_cert_chain(identity / "identity.pem")
    return Stage(trial, lambda: open_link(broker["client"], tls), _hints(plan, folder, identity), is_fleet=True)


def show_fleet(plan: Plan) -> None:
    """What an operator sees, and a setting that is changed from afar.

    Raises:
        DemoError: a command fails.
    """
    *_, last = NODES
    for words in (
        ("status",),
        ("nodes", "online and model~smollm2"),
        ("set", last, "log.level=warning"),
        ("why", last),
    ):
        plan.console.print(f"\n  $ fleet {shlex.join(words)}")
        for line in plan.run("fleet", *words, SHOAL_FLEET_DIR=str(controller_folder(plan))).splitlines():
            plan.console.print(f"    {line}")


def controller_folder(plan: Plan) -> Path:
    """Where the controller is."""
    return plan.folder / "controller"


def _enrol(plan: Plan, *create: str, **env: str) -> None:
    """As an operator and somebody at the device do: a line is printed here and pasted there."""
    line = plan.run("fleet", *create, "--dir", str(controller_folder(plan))).strip()
    program, *words = shlex.split(line)
    if "--folder" in words:
        words[-1] = str(plan.folder / words[-1])
    plan.console.print(f"  $ fleet {shlex.join(create)}\n  $ {_shortened(line)}")
    plan.run(program, *words, **env)


def _shortened(line: str) -> str:
    """Without what is secret or long."""
    words = shlex.split(line)
    for option in ("--token", "--ca-sha256"):
        place = words.index(option) + 1
        words[place] = words[place][:10] + "…"
    return " ".join(words)


def _wait_until_it_serves(controller: Controller, process: Process, log: Path) -> None:
    deadline = time.monotonic() + SERVES_WITHIN_S
    while process.running and time.monotonic() < deadline:
        try:
            if controller.get("/v1/status", Summary).broker_down_s is None:
                return
        except ControllerError:  # it does not listen yet
            pass
        time.sleep(LOOK_S)
    what = "it is not ready in time" if process.running else "it ended"
    raise DemoError(f"cannot start the controller: {what}; its log {log} ends: {last_lines(log, 3)}")


def _hints(plan: Plan, folder: Folder, identity: Path) -> tuple[str, ...]:
    fleet, node = shlex.quote(sys.argv[0]), NODES[0]
    request, answer = NodeRequest(node, CLIENT).path(FLEET), PlainAnswer(CLIENT).path(FLEET)
    pem = identity / "identity.pem"
    port = folder.port("client")
    broker = f"-h {HOST} -p {port} --cafile {identity / 'ca.pem'} --cert {pem} --key {pem}"
    options = f"--broker mqtts://{HOST}:{port} --ca {identity / 'ca.pem'} --cert {pem} --key {pem}"
    return (
        f"  mosquitto_rr {broker} -q 1 -t {request} -e {answer} -m 'is the freezer too warm at -9?'",
        f"  {fleet} {options} ask {node} 'give me one tip to save energy' --stream --client {CLIENT}",
        f"  export SHOAL_FLEET_DIR={controller_folder(plan)}",
        f"  {fleet} status; {fleet} show {node}; {fleet} set {node} log.level=debug",
    )
