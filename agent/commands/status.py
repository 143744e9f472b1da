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
        lines = {
            "node": f"{found['node']} of fleet {found['fleet']}: {found['state']}, up {found['uptime_s']} s",
            "broker": f"{broker['address']} {link}",
            "engine": f"{engine['state']}, {engine['model'] or 'no model'}, {engine['restarts']} restarts",
            "requests": f"{requests['running']} running, {requests['waiting']} waiting; ended: {ended}",
            "outbox": f"{found['outbox']} waiting for the broker",
            "memory": f"{found['memory_mib']} MiB without the engine",
        }
        if engine["problem"]:
            lines["problem"] = engine["problem"]
        for name, text in lines.items():
            print(f"{name:<9} {text}")
        return
    raise ControlError(f"cannot get a status from the agent at {state_dir}: it hung up")
