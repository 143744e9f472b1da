"""Releases made of files, and files made of releases, with no network between."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.update.assemble import Assembly
from agent.update.held import Place
from agent.update.plan import Plan, plan_for
from contract.release import Release, decode_release, encode_release
from fleet.releases.objects import Objects
from fleet.releases.segmenting import store_file


def make_release(path: Path, objects: Objects, earlier: Sequence[Release] = (), **facts: Any) -> Release:
    """A release of a file, gone through the bytes of its manifest."""
    file, segments = store_file(path, objects, earlier)
    told: dict[str, Any] = {
        "name": "m",
        "version": "1",
        "kind": "model",
        "license": "Apache-2.0",
        "memory_bytes": 0,
    } | facts
    return decode_release(encode_release(Release(file=file, segments=segments, **told)))


def release_of(**facts: Any) -> Release:
    """A release of a file of one byte, gone through the bytes of its manifest, as it is described in JSON."""
    source = {"encoding": "full", "sha256": "0" * 64, "bytes": 1}
    told = {
        "name": "m", "version": "1", "kind": "model", "license": "MIT", "memory_bytes": 0,
        "file": {"sha256": "0" * 64, "bytes": 1},
        "segments": [{"name": "all", "sha256": "0" * 64, "bytes": 1, "sources": [source]}],
    } | facts  # fmt: skip
    return decode_release(msgspec.json.encode(told))


def assemble(release: Release, path: Path, objects: Objects, held: dict[str, Place] | None = None) -> Plan:
    """Makes the file of a release; returns the plan that was followed."""
    held = held or {}
    plan = plan_for(release, held)
    with Assembly(release, path, held) as assembly:
        for step in plan.steps:
            assembly.put(step, objects.read(step.source.sha256) if step.source else b"")
        assembly.finish()
    return plan
