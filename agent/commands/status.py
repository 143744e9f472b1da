"""`shoal-agent status`."""

from agent.commands.output import Json, print_json
from agent.config import load_config
from agent.control import call
from agent.errors import ControlError

TIMEOUT_S = 5.0


def status(as_json: Json = False) -> None:
    """Show how the running agent is. Exit code 3 when none is running."""
    state_dir = load_config().state_dir
    for answer in call(state_dir, {"op": "status"}, TIMEOUT_S):
        found = answer["status"]
        if as_json:
            print_json(found)
            return
        broker, engine, requests = found["broker"], found["engine"], found["requests"]
        link = f"connected (MQTT {broker['protocol']})" if broker["connected"] else "not connected"
        ended = ", ".join(f"{number} x {code}" for code, number in requests["ended"].items()) or "none yet"
        network = {True: ", without network", False: ", NOT cut off from the network"}.get(
            engine["network_isolated"], ""
        )
        lines = {
            "node": f"{found['node']} of fleet {found['fleet']}: {found['state']}, up {found['uptime_s']} s",
            "broker": f"{broker['address']} {link}",
            "engine": f"{engine['state']}, {engine['model'] or 'no model'}, {engine['restarts']} restarts{network}",
            "requests": f"{requests['running']} running, {requests['waiting']} waiting; ended: {ended}",
            "outbox": f"{found['outbox']} waiting for the broker",
            "memory": f"{found['memory_mib']} MiB without the engine",
        }
        if desired := found["desired"]:
            lines["desired"] = f"revision {desired['rev']} is {desired['phase']}" + (
                f": {desired['error']}" if desired["error"] else ""
            )
            lines["settings"] = ", ".join(f"{name} = {value}" for name, value in desired["settings"].items())
        for model in found["models"]:
            if not model["default"]:
                lines[f"also {model['model']}"] = ", ".join(filter(None, [model["state"], model["problem"]]))
        for adapter in found["adapters"]:
            about = adapter.get("problem") or f"rank {adapter['rank']}, acts from the {adapter['activation']} on"
            lines[f"adapter {adapter['adapter']}"] = about
        if engine["slots"]:
            lines["slots"] = engine["slots"]["problem"] or f"{engine['slots']['num_slots']} adapters decode together"
        if found["quarantine"]:
            kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(found["quarantine"].items()))
            lines["quarantine"] = f"{kinds}; see `shoal-agent quarantine ls`"
        if engine["problem"]:
            lines["problem"] = engine["problem"]
        for name, text in lines.items():
            print(f"{name:<10} {text}")
        return
    raise ControlError(f"cannot get a status from the agent at {state_dir}: it hung up")
