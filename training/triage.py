"""log-triage: a device's log line becomes JSON: how bad it is, what it concerns, and its cause in a few words.

Severities, the rules that lines are ambiguous without:

- info: as it should be, or again so;
- warning: it works, but not well, or will stop to if nobody acts;
- error: something asked for was not done, or a part has failed;
- critical: the device or its data is being lost now.
"""

import string
from typing import Any, Literal, get_args

import msgspec

from training.task import Task
from training.words import Picker, Words, read_lists

Severity = Literal["info", "warning", "error", "critical"]
Component = Literal["storage", "network", "power", "sensor", "memory", "thermal", "security", "software"]
SEVERITIES: tuple[str, ...] = get_args(Severity)
COMPONENTS: tuple[str, ...] = get_args(Component)


class Issue(Words, frozen=True):
    """What may be the matter, and messages that show it."""

    severity: Severity
    component: Component
    cause: str


class Lists(msgspec.Struct, frozen=True):
    """What is in `log_lines.toml`."""

    words: dict[str, Words]
    lines: Words
    issues: list[Issue]


# What has names that training cannot know all of, and how often it hears of one that nothing has.
INVENTED = ("interface", "host", "supply", "sensor", "process", "part", "user")
INVENTED_SHARE = 0.3
LISTS: Lists = read_lists("log_lines.toml", Lists)


def make(pick: Picker) -> tuple[str, Any]:
    """A log line and what is to be said of it. Only in training is the message one that training sees."""
    issue = pick.rng.choice([issue for issue in LISTS.issues if pick.split == "train" or issue.new_in(pick.split)])
    message = pick.rng.choice(issue.new_in(pick.split) or issue.train)
    if pick.split != "train":
        pick.new.append(message)
    line = pick.draw(LISTS.lines)
    words = {name: _word(pick, name) for name in sorted(_names(message) | _names(issue.cause))}
    around = {name: _word(pick, name) for name in sorted(_names(line) - {"message"})}
    text = line.format(message=message.format(**words), **around)
    # The cause comes first: what has been said helps to choose what follows from it.
    return text, {
        "cause": issue.cause.format(**words),
        "component": issue.component,
        "severity": issue.severity,
    }


def _word(pick: Picker, name: str) -> str:
    if name in INVENTED and pick.split == "train" and pick.rng.random() < INVENTED_SHARE:
        word = pick.invented()
        return pick.rng.choice((word, f"{word}-{pick.rng.randint(0, 9)}", f"{word}{pick.rng.randint(0, 9)}"))
    return pick.draw(LISTS.words[name])


def _names(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


TASK = Task(
    name="log-triage",
    title="A device's log line becomes severity, component and cause",
    source="training/triage.py",
    grammar="training/log_lines.toml",
    system=(
        'Sort the log line into JSON: {"cause":"/var is almost full","component":"storage","severity":"warning"}.'
        f" The cause is one short line. Components: {', '.join(COMPONENTS)}. Severities: {', '.join(SEVERITIES)}."
    ),
    schema={
        "type": "object",
        "properties": {
            "cause": {"type": "string", "minLength": 1, "maxLength": 80},
            "component": {"type": "string", "enum": list(COMPONENTS)},
            "severity": {"type": "string", "enum": list(SEVERITIES)},
        },
        "required": ["cause", "component", "severity"],
        "additionalProperties": False,
    },
    make=make,
    label=lambda answer: (answer["severity"], answer["component"]),
    num_train=2800,
    max_answer_tokens=64,
)
