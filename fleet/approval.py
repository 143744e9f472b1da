"""Which releases may be wished of a node: those that are approved, and those that it has. Pure."""

from collections.abc import Callable, Iterable

import msgspec

from contract.release import Kind
from fleet.api.steering import WishChange
from fleet.errors import ConflictError
from fleet.fields import Record

Approves = Callable[[str, Kind], bool]


def check_approved(node: str, change: WishChange, record: Record | None, approves: Approves) -> None:
    """Whether all that is wished anew of a node may be. A name without a version means what the node has.

    Raises:
        ConflictError: it names a release that is not approved, and that the node has not got.
    """
    models = [change.model] if isinstance(change.model, str) else []
    adapters = [] if change.adapters is msgspec.UNSET else change.adapters
    has = {*record.models, *record.adapters} if record else set[str]()
    wished: list[tuple[str, Kind]] = [(one, "model") for one in models]
    wished += [(one, "adapter") for one in adapters]
    for reference, kind in wished:
        if "@" in reference and reference not in has and not approves(reference, kind):
            raise ConflictError(
                f"cannot wish the {kind} {reference} of {node}: it is not approved, and {node} has not got it; publish "
                f"it with `fleet {kind} publish`, or see `fleet release ls`"
            )


def kind_of(reference: str, records: Iterable[Record], approves: Approves) -> Kind:
    """Whether a release is a model or an adapter.

    Raises:
        ConflictError: it is not approved, and no node has it.
    """
    records = list(records)
    if approves(reference, "model") or any(reference in record.models for record in records):
        return "model"
    if approves(reference, "adapter") or any(reference in record.adapters for record in records):
        return "adapter"
    raise ConflictError(
        f"cannot roll out {reference}: it is not approved, and no node has it; `fleet release ls` lists what is"
    )


def concerned(reference: str, record: Record, wished: list[str]) -> bool:
    """Whether a node has a release, or it is wished of it."""
    return reference in record.models or reference in record.adapters or reference in wished
