"""Which model answers a request. Pure."""

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from contract.errors import Refused
from contract.requests import Task
from contract.status import Status


class Served(Struct, frozen=True):
    """A model of this node, as far as routing is concerned."""

    name: str
    version: str
    task: Task
    is_default: bool = False

    @property
    def label(self) -> str:
        """`name@version`, as answers give it."""
        return f"{self.name}@{self.version}"


class Candidate(Struct, frozen=True):
    """A model file that could be the default. `name` is the one that its file name makes."""

    path: Path
    name: str
    task: Task


def choose_default(found: Sequence[Candidate], *, name: str = "", remembered: str | None = None) -> Candidate | None:
    """The model that answers requests without a name, when no file is configured.

    In this order: the only model; the only one that generates; the one that [model] name means; the one that was the
    default before, so that a file that is put beside it changes nothing. None when these tell nothing.
    """
    texts = [candidate for candidate in found if candidate.task == "generate"] or list(found)
    if len(texts) == 1:
        return texts[0]
    named = [candidate for candidate in texts if candidate.name == name]
    if len(named) == 1:
        return named[0]
    return next((candidate for candidate in texts if str(candidate.path) == remembered), None)


def choose_model(reference: str | None, task: Task, served: Sequence[Served]) -> Served:
    """The model for a request: the named one, else the default one for its task, else the only one for it.

    Raises:
        Refused: 404 when there is none of that name, 400 when it is for another task or the choice is not clear.
    """
    if reference is not None:
        named = [model for model in served if reference in (model.name, model.label)]
        if not named:
            raise Refused(
                Status.NOT_FOUND, "model", f"cannot find model {reference!r}: this node has {_labels(served)}"
            )
        fitting = [model for model in named if model.task == task]
        if not fitting:
            does = "makes embeddings: use task 'embed' and input" if task == "generate" else "generates text"
            others = [model for model in served if model.task == task]
            raise Refused(
                Status.INVALID,
                "model",
                f"cannot {task} with model {reference!r}, which {does}; for {task!r} this node has {_labels(others)}",
            )
        return _clear_choice(fitting, f"model {reference!r} is not clear")
    fitting = [model for model in served if model.task == task]
    if not fitting:
        raise Refused(
            Status.INVALID, "task", f"cannot run task {task!r}: no model of this node does; it has {_labels(served)}"
        )
    return _clear_choice(fitting, "the request names none and this node has no default for it")


def _clear_choice(fitting: Sequence[Served], why: str) -> Served:
    default = next((model for model in fitting if model.is_default), None)
    if default is not None:
        return default
    if len(fitting) > 1:
        raise Refused(
            Status.INVALID, "model", f"cannot choose a model: {why}; give one of {_labels(fitting)} in `model`"
        )
    return fitting[0]


def _labels(served: Sequence[Served]) -> str:
    return ", ".join(model.label for model in served) or "none"
