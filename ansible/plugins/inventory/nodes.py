"""Hosts from what the controller knows of its nodes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: nodes
short_description: Nodes of a Shoal fleet
version_added: "1.0.0"
author: The Shoal maintainers (@shoal)
description:
  - Every node that the controller knows becomes a host, in C(shoal_agents) and groups after its state, site and pools.
  - The file's name ends in C(shoal.yml) or C(shoal.yaml).
extends_documentation_fragment:
  - shoal.fleet.controller
  - constructed
options:
  plugin:
    description: This plugin.
    required: true
    choices: [shoal.fleet.nodes]
  token:
    env:
      - name: SHOAL_FLEET_TOKEN
  query:
    description: Which nodes, in the query language of C(fleet nodes). All without it.
    type: str
"""

EXAMPLES = r"""
# fleet.shoal.yml; the token is in SHOAL_FLEET_TOKEN
plugin: shoal.fleet.nodes
url: https://shoal.example:8443
ca_path: root.pem
compose:
  ansible_host: shoal.node ~ ".store.example"
"""

from typing import Any

from ansible.errors import AnsibleParserError
from ansible_collections.shoal.fleet.plugins.module_utils.controller import Controller, ControllerError

from ansible.plugins.inventory import BaseInventoryPlugin, Constructable


class InventoryModule(BaseInventoryPlugin, Constructable):
    """The plugin. A host's variable `shoal` has all that `fleet nodes` shows."""

    NAME = "shoal.fleet.nodes"

    def verify_file(self, path: str) -> bool:
        """Whether a file is meant for this plugin."""
        return super().verify_file(path) and path.endswith(("shoal.yml", "shoal.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Adds the hosts."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        controller = Controller(self.get_option("url"), self.get_option("token"), self.get_option("ca_path"))
        try:
            nodes = controller.nodes(self.get_option("query"))
        except ControllerError as error:
            raise AnsibleParserError(str(error)) from error
        strict = self.get_option("strict")
        for node in nodes:
            name = self.inventory.add_host(node["node"])
            variables = {"shoal": node}
            self.inventory.set_variable(name, "shoal", node)
            for group in groups_of(node):
                self.inventory.add_child(self.inventory.add_group(group), name)
            self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)


def groups_of(node: dict[str, Any]) -> list[str]:
    """The groups of a node."""
    named = [f"state_{node['state']}"]
    named += [f"site_{node['site']}"] if node.get("site") else []
    named += [f"pool_{pool}" for pool in node.get("pools", [])]
    return ["shoal_agents", *("shoal_" + "".join(c if c.isalnum() else "_" for c in name) for name in named)]
