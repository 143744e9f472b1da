"""From what a node is to be and what it is: the steps between, or why there is no way. Pure.

Steps follow from the difference alone, so planning again after any number of them gives the rest, and none at the end.
What is no longer wished for goes back to what the node's own configuration says.
"""

from typing import Any

from msgspec import Struct

from contract.settings import BadSetting, check


class Wish(Struct, frozen=True, kw_only=True):
    """What a node is to be: its desired state, with the settings of its groups merged in (`settings.effective`)."""

    rev: int = 0
    policies: dict[str, int] = {}  # revision by group
    model: str | None = None  # None: the configured one
    adapters: list[str] = []
    settings: dict[str, Any] = {}


class Present(Struct, frozen=True, kw_only=True):
    """What a node has: digests of models by `name@version`, digests of their base for adapters."""

    models: dict[str, str]
    adapters: dict[str, str]
    configured_model: str | None
    configured_settings: dict[str, Any]


class Running(Struct, frozen=True, kw_only=True):
    """What is in force on a node."""

    model: str | None
    adapters: list[str]
    settings: dict[str, Any]


class Change(Struct, frozen=True, tag=True):
    """A step: a setting gets another value."""

    name: str
    value: Any


class Activate(Struct, frozen=True, tag=True):
    """A step: this model answers requests that name none, with these adapters. One step, because they fit together."""

    model: str | None
    adapters: list[str]


Step = Change | Activate


class Impossible(Struct, frozen=True):
    """There is no way, and trying again would not make one."""

    reason: str


def is_attainable(wish: Wish, present: Present) -> bool:
    """Whether it could be fulfilled once all releases (`name@version`) that it names are here."""
    names = {*wish.adapters} | ({wish.model} if wish.model else set())
    absent = names - present.models.keys() - present.adapters.keys()
    return not _bad_settings(wish) and all("@" in name for name in absent)


def plan(wish: Wish, present: Present, running: Running) -> list[Step] | Impossible:
    """The steps that are left. Settings come first: they are quick, and limits should hold when a model starts."""
    model = wish.model or present.configured_model
    if problems := _problems(wish, model, present):
        return Impossible("; ".join(problems))
    goal = present.configured_settings | wish.settings
    steps: list[Step] = [Change(name, goal[name]) for name in sorted(goal) if running.settings.get(name) != goal[name]]
    if (running.model, running.adapters) != (model, wish.adapters):
        steps.append(Activate(model, wish.adapters))
    return steps


def _problems(wish: Wish, model: str | None, present: Present) -> list[str]:
    problems = _bad_settings(wish)
    if model is not None and model not in present.models:
        problems.append(f"cannot activate model {model!r}: this node has {_names(present.models)}")
        return problems
    for adapter in wish.adapters:
        if adapter not in present.adapters:
            problems.append(f"cannot activate adapter {adapter!r}: this node has {_names(present.adapters)}")
        elif model is None or present.adapters[adapter] != present.models[model]:
            problems.append(
                f"cannot activate adapter {adapter!r} on {model or 'no model'}: it was made for another base"
            )
    return problems


def _bad_settings(wish: Wish) -> list[str]:
    problems = []
    for name, value in sorted(wish.settings.items()):
        try:
            check(name, value)
        except BadSetting as bad:
            problems.append(str(bad))
    return problems


def _names(labels: dict[str, str]) -> str:
    return ", ".join(sorted(labels)) or "none"
