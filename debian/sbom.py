"""What is inside a package, as CycloneDX 1.5: every Python distribution with its digests, and llama.cpp by commit."""

import re
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

# Which llama.cpp a version of the binding has in its source archive. The archive names it only in its change log, so a
# new version of the binding needs a look there, and a line here.
LLAMA_CPP_COMMITS = {"0.3.36": "0c1e57098"}
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ;.*?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)", re.MULTILINE)


class UnknownCommitError(Exception):
    """The list of what is inside would not name llama.cpp."""


def make_sbom(library: Path, lock: str, version: str) -> dict[str, Any]:
    """The document for what is installed below `library`.

    Raises:
        UnknownCommitError: the binding is another version than those whose llama.cpp is known.
    """
    hashes = hashes_in(lock)
    (packages,) = library.glob("python*/site-packages")
    found = sorted(distributions(path=[str(packages)]), key=lambda each: normal(each.name))
    components = [component(each, hashes.get((normal(each.name), each.version), [])) for each in found]
    binding = next(each.version for each in found if normal(each.name) == "llama-cpp-python")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "shoal", "version": version}},
        "components": [*components, llama_cpp(binding)],
    }


def llama_cpp(binding: str) -> dict[str, Any]:
    """The C++ library inside the binding."""
    commit = LLAMA_CPP_COMMITS.get(binding)
    if commit is None:
        raise UnknownCommitError(
            f"cannot name the llama.cpp of llama-cpp-python {binding}: look into its CHANGELOG.md and add the commit to"
            " LLAMA_CPP_COMMITS"
        )
    return {
        "type": "library",
        "name": "llama.cpp",
        "version": commit,
        "purl": f"pkg:github/ggml-org/llama.cpp@{commit}",
        "licenses": [{"license": {"id": "MIT"}}],
        "description": f"built from the source archive of llama-cpp-python {binding}",
    }


def component(found: Distribution, hashes: list[str]) -> dict[str, Any]:
    """One Python distribution. The digests are those of all its archives in the lock: one of them was installed."""
    name = normal(found.name)
    listed: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": found.version,
        "purl": f"pkg:pypi/{name}@{found.version}",
        "bom-ref": f"pkg:pypi/{name}@{found.version}",
    }
    if "License-Expression" in found.metadata:
        listed["licenses"] = [{"expression": found.metadata["License-Expression"]}]
    if hashes:
        listed["externalReferences"] = [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{name}/{found.version}/",
                "hashes": [{"alg": "SHA-256", "content": each} for each in hashes],
            }
        ]
    return listed


def hashes_in(lock: str) -> dict[tuple[str, str], list[str]]:
    """The digests of a lock file's archives, by name and version."""
    return {
        (normal(name), version): re.findall(r"sha256:([0-9a-f]{64})", digests)
        for name, version, digests in _PINNED.findall(lock)
    }


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
