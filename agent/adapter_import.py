"""From a file or folder that somebody else made to an adapter in the store: read once, checked, and only then stored.

The daemon runs this as a process of its own for what is dropped into its folder: what parses files from outside may
crash, and needs numpy, which a daemon does not load. It gets one JSON object on its standard input, an `Errand`, and
says one `Outcome` a line.
"""

import hashlib
import os
import stat
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec

from agent.errors import AgentError, ModelError, NoSpaceError
from agent.models import BaseFile, mark_of
from agent.store.adapter_entries import VERSION_DIGITS, NewAdapter
from agent.store.adapters import AdapterStore
from agent.weights.adapter import BASE_KEY, Adapter, check_adapter, check_finite, read_adapter
from agent.weights.base_model import Base, read_base_file
from agent.weights.gguf import parse
from agent.weights.head import read_head
from agent.weights.parts import split
from agent.weights.peft import convert_peft
from contract.ids import ID_RULE, id_from, is_id

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
MAX_SETTINGS_BYTES = 1 << 20


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What an import has to keep to. `in_use` are digests that a running daemon needs."""

    bases: list[BaseFile]
    budget_bytes: int
    in_use: Collection[str] = ()


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon wants imported from its folder, under the files' names; or a release's file, as `name@version`
    for a base of this digest.
    """

    state_dir: str
    terms: Terms
    files: list[str]
    reference: str | None = None
    base_sha256: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a file: an adapter and what was evicted for it, or why not."""

    file: str
    label: str = ""
    evicted: list[str] = []
    problem: str = ""


class Imported(msgspec.Struct, frozen=True):
    """An adapter that is in the store now."""

    name: str
    sha256: str
    base_sha256: str
    bytes: int
    rank: int
    activation: str
    evicted: list[str]


def import_adapter(
    store: AdapterStore, source: Path, terms: Terms, *, name: str | None = None, base: str | None = None,
    version: str | None = None, follow_links: bool = True,
) -> Imported:  # fmt: skip
    """Imports a GGUF file or a PEFT folder. `base` is a name, `name@version` or digest; None: what the file says, or
    else the default one. A release has a version.

    Raises:
        ModelError: it cannot be used; the message names the reason.
        StoreError: it cannot be stored; NoSpaceError: for want of space.
    """
    name = id_from(source.stem, "adapter") if name is None else name
    if not is_id(name):
        raise ModelError(f"cannot name an adapter {name!r}: {ID_RULE}")
    if source.is_dir() and follow_links:
        chosen = choose_base(terms.bases, base, None)
        facts_of_base = read_base_file(Path(chosen.path))
        weights = _read(source / WEIGHTS, terms.budget_bytes)
        settings = _read(source / SETTINGS, MAX_SETTINGS_BYTES)
        content = convert_peft(settings, weights, facts_of_base, label=f"the adapter {source}")
        facts = read_adapter(content, label=f"the adapter {source}")
    else:
        content = _read(source, terms.budget_bytes, is_gguf=True, follow_links=follow_links)
        facts = read_adapter(content, label=f"the adapter {source}")
        chosen = choose_base(terms.bases, base, facts)
        facts_of_base = read_base_file(Path(chosen.path))
    check(content, facts, facts_of_base, chosen)
    new = NewAdapter(
        sha256=hashlib.sha256(content).hexdigest(),
        base_sha256=chosen.sha256,
        bytes=len(content),
        rank=facts.rank,
        activation=facts.activation,
        scores=facts.scores,
        parts=split(content, parse(content)),
    )
    now_ms = time.time_ns() // 1_000_000
    name = name if version is None else f"{name}@{version}"
    evicted = store.put(name, new, budget_bytes=terms.budget_bytes, now_ms=now_ms, in_use=terms.in_use)
    return Imported(name, new.sha256, chosen.sha256, new.bytes, new.rank, new.activation, evicted)


def check(content: bytes, facts: Adapter, base: Base, chosen: BaseFile) -> None:
    """Whether an adapter can be used with a base.

    Raises:
        ModelError: it cannot; the message says why.
    """
    try:
        check_adapter(facts, base)
    except ModelError as error:
        raise ModelError(f"{error} (the base is {chosen.label}, SHA-256 {chosen.sha256})") from None
    check_finite(content, facts)


def choose_base(bases: Sequence[BaseFile], wanted: str | None, facts: Adapter | None) -> BaseFile:
    """The base model that an adapter is for: the wanted one, the one that its file names, or the default.

    Raises:
        ModelError: there is no such base here, or the file names another one.
    """
    here = ", ".join(f"{base.label} ({base.sha256})" for base in bases) or "none"
    named = facts.base_sha256 if facts else None
    # What it was trained on, or tested on: of a model's variants this node may have another one.
    bases_of = [named, *facts.scores] if facts else []
    if wanted is not None:
        found = [base for base in bases if wanted in (base.label, base.label.partition("@")[0], base.sha256)]
        if not found:
            raise ModelError(f"cannot find the base {wanted!r}: this node's models are {here}")
    elif named is not None:
        found = [base for known in bases_of for base in bases if base.sha256 == known]
    else:
        found = [base for base in bases if base.is_default]
        if not found:
            raise ModelError(f"cannot tell which base the adapter is for: name it with --base; models here are {here}")
    if facts and named is not None and (not found or found[0].sha256 not in bases_of):
        asked = f"the base is {found[0].sha256}" if found else f"this node's models are {here}"
        raise facts.wrong(f"its {BASE_KEY} is {named}, but {asked}")
    return found[0]


def _read(path: Path, max_bytes: int, *, is_gguf: bool = False, follow_links: bool = True) -> bytes:
    """A whole file, of which a GGUF's head is looked at first: somebody may have taken a model for an adapter.

    Raises:
        ModelError: it is no regular file, or changes while it is read.
        NoSpaceError: it is larger than `max_bytes`.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_links else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
        with open(fd, "rb") as file:  # noqa: PTH123  # a descriptor
            size = _size(fd, path)
            if is_gguf:
                label = f"the adapter {path}"
                read_head(
                    Path(f"/proc/self/fd/{fd}"),
                    lambda head, num_bytes: read_adapter(head, label=label, file_bytes=num_bytes),
                )
            if size > max_bytes:
                raise NoSpaceError(f"cannot use {path}: it has {size} bytes, and {max_bytes} are allowed")
            content = file.read(size + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if len(content) != size:
        raise ModelError(f"cannot use {path}: it changed while it was read")
    return content


def _size(fd: int, path: Path) -> int:
    state = os.fstat(fd)
    if not stat.S_ISREG(state.st_mode):
        raise ModelError(f"cannot use {path}: it is no file")
    return state.st_size


def _run(errand: Errand) -> None:
    """Imports files one by one. Each is removed once it is in the store, unless there is another one by then."""
    store = AdapterStore(Path(errand.state_dir))
    name, _, version = errand.reference.partition("@") if errand.reference else (None, "", None)
    for file in errand.files:
        path = Path(file)
        try:
            before = mark_of(path)
            done = import_adapter(
                store, path, errand.terms, name=name, version=version, base=errand.base_sha256, follow_links=False
            )
            if mark_of(path) == before:  # not another one that came meanwhile
                path.unlink()
            label = done.name if version else f"{done.name}@{done.sha256[:VERSION_DIGITS]}"
            outcome = Outcome(file, label, done.evicted)
        except AgentError as error:
            outcome = Outcome(file, problem=str(error))
        except OSError as error:
            outcome = Outcome(file, problem=f"cannot import {path}: {error.strerror}")
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.flush()
    store.close()


if __name__ == "__main__":
    os.nice(10)  # what is being answered comes first
    _run(msgspec.json.decode(sys.stdin.buffer.read(), type=Errand))
