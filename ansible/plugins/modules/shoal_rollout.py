#!/usr/bin/python
"""Rolls releases out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: shoal_rollout
short_description: Roll a release out over a Shoal fleet, in stages
version_added: "1.0.0"
author: The Shoal maintainers (@shoal)
description:
  - Begins a rollout and waits for its verdict. Fails when it aborts, when it pauses, and when time is over.
  - A rollout of the same release to the same nodes that is under way is waited for; a completed one stays.
extends_documentation_fragment: shoal.fleet.controller
attributes:
  check_mode:
    support: full
    description: Asks the controller who would get the release in which wave.
  diff_mode:
    support: full
    description: Shows the waves.
options:
  release:
    description: The release, such as V(smollm2@2).
    type: str
    required: true
  query:
    description: Which nodes, in the query language of C(fleet nodes). All without it.
    type: str
    default: node~*
  plan:
    description: How fast, when, and what is too bad, as in C(POST /v1/rollouts), such as V(waves) and V(soak_s).
    type: dict
    default: {}
  wait_s:
    description: How long to wait for the verdict. 0 does not wait.
    type: int
    default: 86400
"""

EXAMPLES = r"""
- name: Roll a model out to a store first
  shoal.fleet.shoal_rollout:
    url: https://shoal.example:8443
    token: "{{ shoal_token }}"
    ca_path: root.pem
    release: smollm2@2
    query: site=store-7
    plan:
      waves: ["1", "10%", "100%"]
      soak_s: 600
  delegate_to: localhost
"""

RETURN = r"""
rollout:
  description: The rollout as the controller shows it at the end.
  type: dict
  returned: unless in check mode
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.shoal.fleet.plugins.module_utils.controller import ARGUMENTS, Controller, ControllerError

LOOK_S = 5
NUM_LOOKED_AT = 1000
UNDER_WAY = ("running", "paused", "calling back")
OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "release": {"type": "str", "required": True},
    "query": {"type": "str", "default": "node~*"},
    "plan": {"type": "dict", "default": {}},
    "wait_s": {"type": "int", "default": 86400},
}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec={**ARGUMENTS, **OWN_ARGUMENTS}, supports_check_mode=True)
    given = module.params
    controller = Controller(given["url"], given["token"], given["ca_path"])
    wanted = {**given["plan"], **{name: given[name] for name in ("release", "query")}}
    try:
        forecast = controller.send("POST", "rollouts/plan", wanted)
        diff = {"before": "", "after": _waves(forecast)}
        known = _known(controller, given["release"], forecast["plan"]["targets"])
        if module.check_mode:
            module.exit_json(changed=known is None, diff=diff)
        rollout = known or controller.send("POST", "rollouts", wanted)
        until = time.monotonic() + given["wait_s"]
        while rollout["phase"] == "running" and time.monotonic() < until:
            time.sleep(LOOK_S)
            rollout = controller.send("GET", f"rollouts/{rollout['id']}")
    except ControllerError as error:
        module.fail_json(msg=str(error))
    if rollout["phase"] != "completed" and given["wait_s"]:
        module.fail_json(msg=_sentence(rollout), rollout=rollout, changed=known is None)
    module.exit_json(changed=known is None, rollout=rollout, diff=diff)


def _known(controller: Controller, release: str, targets: str) -> dict[str, Any] | None:
    """The newest rollout of the release to these nodes, unless it was aborted: then it is begun again."""
    for rollout in controller.send("GET", "rollouts", limit=NUM_LOOKED_AT):
        plan = rollout["plan"]
        if (plan["release"], plan["targets"]) == (release, targets):
            known: dict[str, Any] = rollout
            return known if rollout["phase"] in (*UNDER_WAY, "completed") else None
    return None


def _waves(forecast: dict[str, Any]) -> str:
    lines = [f"wave {number}: {', '.join(nodes)}\n" for number, nodes in enumerate(forecast["waves"], 1)]
    return "".join(lines) or "no node needs it\n"


def _sentence(rollout: dict[str, Any]) -> str:
    why = "; ".join(rollout.get("reasons") or []) or (rollout.get("pause") or {}).get("reason") or "it takes longer"
    return f"cannot say that {rollout['plan']['release']} is rolled out: {rollout['id']} is {rollout['phase']}: {why}"


if __name__ == "__main__":
    main()
