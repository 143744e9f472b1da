#!/usr/bin/python
"""Publishes releases."""

from __future__ import annotations

DOCUMENTATION = r"""
module: shoal_release
short_description: Publish a model or an adapter to a Shoal fleet, or take it back
version_added: "1.0.0"
author: The Shoal maintainers (@shoal)
description:
  - Sends a file to the controller, which signs it as a release. A release never changes; a new file is a new version.
  - Where releases are signed by keys that are not on the controller, it waits there for its signatures.
extends_documentation_fragment: shoal.fleet.controller
attributes:
  check_mode:
    support: full
    description: Says what would be published or taken back.
  diff_mode:
    support: full
    description: Shows the state of the release.
options:
  name:
    description: The model's or adapter's name.
    type: str
    required: true
  version:
    description: Its version.
    type: str
    required: true
  kind:
    description: What it is.
    type: str
    choices: [model, adapter]
    default: model
  src:
    description: The file, on the machine where this runs. Needed to publish.
    type: path
  facts:
    description: What else is to be known of it, as in C(POST /v1/releases), such as V(base) of an adapter.
    type: dict
    default: {}
  state:
    description: Whether it shall be published, or be wished of nodes no more.
    type: str
    choices: [present, yanked]
    default: present
  reason:
    description: Why it is yanked.
    type: str
"""

EXAMPLES = r"""
- name: Publish a model
  shoal.fleet.shoal_release:
    url: https://shoal.example:8443
    token: "{{ shoal_token }}"
    ca_path: root.pem
    name: smollm2
    version: "2"
    src: smollm2.gguf
  delegate_to: localhost
"""

RETURN = r"""
release:
  description: The release, as O(name) and O(version).
  type: str
  returned: always
  sample: smollm2@2
missing:
  description: How many signatures it still needs.
  type: int
  returned: when it was published
"""

import hashlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.shoal.fleet.plugins.module_utils.controller import ARGUMENTS, Controller, ControllerError

PORTION = 1 << 20
OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["model", "adapter"], "default": "model"},
    "src": {"type": "path"},
    "facts": {"type": "dict", "default": {}},
    "state": {"type": "str", "choices": ["present", "yanked"], "default": "present"},
    "reason": {"type": "str"},
}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec={**ARGUMENTS, **OWN_ARGUMENTS},
        required_if=[("state", "present", ["src"]), ("state", "yanked", ["reason"])],
        supports_check_mode=True,
    )
    given = module.params
    controller = Controller(given["url"], given["token"], given["ca_path"])
    reference = f"{given['name']}@{given['version']}"
    try:
        listed = {each["release"]: each for each in controller.send("GET", "releases")}.get(reference)
        change = _to_yank if given["state"] == "yanked" else _to_publish
        work, before, after = change(module, controller, listed)
        result = work() if work and not module.check_mode else {}
    except (ControllerError, OSError) as error:
        module.fail_json(msg=str(error), release=reference)
    diff = {"before": f"{reference}: {before}\n", "after": f"{reference}: {after}\n"}
    module.exit_json(changed=work is not None, release=reference, diff=diff, **result)


def _to_publish(module: Any, controller: Controller, listed: dict[str, Any] | None) -> tuple[Any, str, str]:
    given = module.params
    file = Path(given["src"])
    digest = _digest(file)
    if listed:
        if listed["sha256"] != digest:
            module.fail_json(msg=f"cannot publish {listed['release']} again: it is another file; give it a new version")
        return None, listed["state"], listed["state"]

    def publish() -> dict[str, Any]:
        num_bytes = file.stat().st_size
        upload = controller.send("POST", "uploads", {"sha256": digest, "bytes": num_bytes})
        if not upload["is_here"]:
            with file.open("rb") as content:
                controller.upload(f"uploads/{upload['id']}", content, num_bytes)
        named = {name: given[name] for name in ("name", "version", "kind")}
        return {
            "missing": controller.send("POST", "releases", {**given["facts"], **named, "sha256": digest})["missing"]
        }

    return publish, "absent", f"published, {file.stat().st_size} bytes, sha256 {digest}"


def _to_yank(module: Any, controller: Controller, listed: dict[str, Any] | None) -> tuple[Any, str, str]:
    given = module.params
    if listed is None:
        module.fail_json(msg=f"cannot yank {given['name']}@{given['version']}: it was never published")
    if listed["state"] == "yanked":
        return None, "yanked", "yanked"
    path = f"releases/{given['name']}/yank"

    def yank() -> dict[str, Any]:
        controller.send("POST", path, {"reason": given["reason"]}, version=given["version"])
        return {}

    return yank, listed["state"], f"yanked: {given['reason']}"


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while portion := content.read(PORTION):
            digest.update(portion)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
