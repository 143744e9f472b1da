"""Options of everything that talks to a controller."""

from __future__ import annotations


class ModuleDocFragment:
    """What `extends_documentation_fragment: shoal.fleet.controller` adds."""

    DOCUMENTATION = r"""
options:
  url:
    description: The controller, such as V(https://shoal.example:8443).
    type: str
    required: true
  token:
    description: An operator's token, as C(fleet operator create) prints it.
    type: str
    required: true
  ca_path:
    description: File with the fleet's root certificate, on the machine where this runs.
    type: path
"""
