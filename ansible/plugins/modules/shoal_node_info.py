#!/usr/bin/python
"""Looks at nodes of a fleet."""

from __future__ import annotations

DOCUMENTATION = r"""
module: shoal_node_info
short_description: Look at nodes of a Shoal fleet
version_added: "1.0.0"
author: The Shoal maintainers (@shoal)
description:
  - Asks the controller for the nodes that fit a query. Changes nothing.
extends_documentation_fragment: shoal.fleet.controller
attributes:
  check_mode:
    support: full
    description: It changes nothing in any case.
options:
  query:
    description: Which nodes, in the query language of C(fleet nodes), such as V(not online). All without it.
    type: str
"""

EXAMPLES = r"""
- name: Which devices of a site are away
  shoal.fleet.shoal_node_info:
    url: https://shoal.example:8443
    token: "{{ shoal_token }}"
    ca_path: root.pem
    query: site=store-7 and not online
  register: away
  delegate_to: localhost
"""

RETURN = r"""
nodes:
  description: What the controller knows of each node, ordered by name.
  type: list
  elements: dict
  returned: success
  sample: [{"node": "kitchen-1", "state": "online", "active": "smollm2@1"}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.shoal.fleet.plugins.module_utils.controller import ARGUMENTS, Controller, ControllerError


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec={**ARGUMENTS, "query": {"type": "str"}}, supports_check_mode=True)
    controller = Controller(module.params["url"], module.params["token"], module.params["ca_path"])
    try:
        module.exit_json(changed=False, nodes=controller.nodes(module.params["query"]))
    except ControllerError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
