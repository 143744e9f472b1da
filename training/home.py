"""home-actions: a spoken wish becomes JSON actions.

The rules that wishes are ambiguous without:

- A room that is named once is meant for all devices of the wish. Where none is named it is "here", for the whole house
  "all". Rooms are copied from the wish, so that any house's rooms will do.
- Actions stand in the order of the wish; the same device in two rooms makes two actions.
- "low" is 20, "half" 50 and "full" 100 percent; a need without a number ("it is cold") has a fixed answer, `NEEDS`.
- A scene is a fixed row of actions, `SCENES`, in the room that is named; going to bed and leaving concern all rooms.
"""

from typing import Any

import msgspec

from training.task import Task
from training.words import Picker, Words, read_lists

Action = dict[str, Any]

STATES = {
    "light": ("on", "off", "percent", "percent", "low", "half", "full"),
    "blinds": ("open", "closed", "open", "closed", "percent", "half"),
    "tv": ("on", "off"),
    "heating": ("on", "off", "degrees", "degrees", "degrees"),
    "fan": ("on", "off"),
    "music": ("on", "off", "percent", "low", "full"),
    "door": ("locked", "unlocked"),
}
LEVELS = {"low": 20, "half": 50, "full": 100}
NEEDS: dict[str, tuple[str, str | int]] = {
    "dark": ("light", "on"),
    "bright": ("blinds", "closed"),
    "cold": ("heating", 22),
    "hot": ("fan", "on"),
    "loud": ("music", "off"),
}
SCENES: dict[str, tuple[tuple[str, str | int], ...]] = {
    "movie": (("light", 20), ("blinds", "closed"), ("tv", "on")),
    "sleep": (("light", "off"), ("blinds", "closed"), ("door", "locked")),
    "leave": (("light", "off"), ("heating", 16), ("door", "locked")),
    "morning": (("blinds", "open"), ("heating", 21), ("music", "on")),
    "dinner": (("light", 60), ("tv", "off"), ("music", 20)),
    "party": (("light", 80), ("music", 90)),
    "read": (("light", 90), ("music", "off")),
}
WHOLE_HOUSE = ("sleep", "leave")
# How often training hears of a room that is put together ("cedar hall"), and of one that nobody has, so that copying is
# learnt rather than the list.
COMPOUND_SHARE = 0.3
INVENTED_SHARE = 0.15
# How often a wish is written as a sentence, with a capital and a full stop.
SENTENCE_SHARE = 0.1


class Lists(msgspec.Struct, frozen=True):
    """What is in `home_words.toml`."""

    rooms: Words
    qualifiers: Words
    nouns: dict[str, Words]
    percents: Words
    degrees: Words
    things: dict[str, Words]
    states: dict[str, Words]
    needs: dict[str, Words]
    scenes: dict[str, Words]
    places: Words
    shared: Words
    frames: Words
    orders: Words
    joins: Words


LISTS: Lists = read_lists("home_words.toml", Lists)
# What orders begin with: "could you" goes before these only.
_NO_VERBS = {"I", "we", "no", "is", "it", "enough", "only", "just", "nobody", "full", "half", "do"}
_VERBS = {
    word
    for words in LISTS.states.values()
    for template in words.train
    if (word := template.partition(" ")[0]).isalpha() and word not in _NO_VERBS
}


def make(pick: Picker) -> tuple[str, Any]:
    """A wish and its actions."""
    kinds = {_one: 6, _two: 6, _same_room: 5, _second_without_room: 2, _several: 4, _need: 5, _scene: 6, _scene_and: 2}
    while True:
        picked = len(pick.new)
        (kind,) = pick.rng.choices(list(kinds), list(kinds.values()))
        text, actions = kind(pick)
        if len({(action["room"], action["device"]) for action in actions}) == len(actions):
            return _written(pick, text, actions), {"actions": actions}
        del pick.new[picked:]  # it says two things of one device


def _one(pick: Picker) -> tuple[str, list[Action]]:
    text, actions = _order(pick, _place(pick))
    return _framed(pick, text), actions


def _two(pick: Picker) -> tuple[str, list[Action]]:
    places = ("all", "all") if pick.rng.random() < 0.1 else ("here", "here") if pick.rng.random() < 0.15 else None
    first, second = places or (_room(pick), _room(pick))
    one, actions = _order(pick, first)
    two, more = _order(pick, second)
    return _framed(pick, _filled(pick, LISTS.joins, c=one, d=two)), actions + more


def _same_room(pick: Picker) -> tuple[str, list[Action]]:
    room = _room(pick)
    one, actions = _order(pick, room, is_named=False)
    two, more = _order(pick, room, is_named=False)
    if pick.rng.random() < 0.3:
        three, most = _order(pick, room, is_named=False)
        two, more = f"{two} and {three}", more + most
        one = one if pick.rng.random() < 0.5 else f"please {one}"
    return _filled(pick, LISTS.shared, room=room, c=one, d=two), actions + more


def _second_without_room(pick: Picker) -> tuple[str, list[Action]]:
    room = _room(pick)
    one, actions = _order(pick, room)
    two, more = _order(pick, room, is_named=False)
    return _framed(pick, _filled(pick, LISTS.joins, c=one, d=two)), actions + more


def _several(pick: Picker) -> tuple[str, list[Action]]:
    """The same state for a device in two rooms, or for two devices in one."""
    room, device = _room(pick), pick.rng.choice(list(STATES))
    state = pick.rng.choice(STATES[device])
    if pick.rng.random() < 0.5:
        other = _room(pick)
        thing = _filled(pick, LISTS.things["rooms"], room=room, other=other, noun=pick.draw(LISTS.nouns[device]))
        targets = [(room, device), (other, device)]
    else:
        second = pick.rng.choice([name for name in STATES if state in STATES[name]])
        nouns = pick.draw(LISTS.nouns[device]), pick.draw(LISTS.nouns[second])
        thing = _filled(pick, LISTS.things["nouns"], room=room, noun=nouns[0], second=nouns[1])
        targets = [(room, device), (room, second)]
    text, value = _said(pick, thing, state)
    return _framed(pick, text), [_action(*target, value) for target in targets]


def _need(pick: Picker) -> tuple[str, list[Action]]:
    need = pick.rng.choice(list(NEEDS))
    where = pick.draw(LISTS.places) or "here"
    room = _room(pick) if "{room}" in where else "here"
    actions = [_action(room, *NEEDS[need])]
    text = _filled(pick, LISTS.needs[need], x=where.format(room=room))
    if pick.rng.random() < 0.3:
        order, more = _order(pick, room, is_named=False)
        return _filled(pick, LISTS.joins, c=text, d=order), actions + more
    return text, actions


def _scene(pick: Picker) -> tuple[str, list[Action]]:
    scene = pick.rng.choice(list(SCENES))
    text = pick.draw(LISTS.scenes[scene])
    if scene in WHOLE_HOUSE:
        return text, [_action("all", *step) for step in SCENES[scene]]
    where = pick.draw(LISTS.places)
    room = _room(pick) if "{room}" in where else "here"
    place = where.format(room=room)
    text = f"{text} {place}".strip() if pick.rng.random() < 0.7 else f"{place} {text}".strip()
    return text, [_action(room, *step) for step in SCENES[scene]]


def _scene_and(pick: Picker) -> tuple[str, list[Action]]:
    text, actions = _scene(pick)
    room = actions[0]["room"]
    order, more = _order(pick, room, is_named=room == "all")
    return _filled(pick, LISTS.joins, c=text, d=order), actions + more


def _order(pick: Picker, room: str, *, is_named: bool = True) -> tuple[str, list[Action]]:
    """Something to do with one device in a room, which another part of the wish names when `is_named` is off."""
    device = pick.rng.choice(list(STATES))
    noun = pick.draw(LISTS.nouns[device])
    if is_named:
        kind = room if room in ("here", "all") else "room"
        thing = _filled(pick, LISTS.things[kind], noun=noun, room=room)
    else:
        thing = f"the {noun}"
    text, value = _said(pick, thing, pick.rng.choice(STATES[device]))
    return text, [_action(room, device, value)]


def _said(pick: Picker, thing: str, state: str) -> tuple[str, str | int]:
    """The wish that a thing be in a state, and the value of that state."""
    number = ""
    if state in ("percent", "degrees"):
        number = pick.draw(LISTS.percents if state == "percent" else LISTS.degrees)
    text = _filled(pick, LISTS.states[state], x=thing, n=number)
    return text, int(number) if number else LEVELS.get(state, state)


def _framed(pick: Picker, text: str) -> str:
    is_order = text.partition(" ")[0] in _VERBS
    return _filled(
        pick, LISTS.orders if is_order and pick.rng.random() < 0.5 else LISTS.frames, c=text, name=pick.invented()
    )


def _written(pick: Picker, text: str, actions: list[Action]) -> str:
    """The wish as it is said, or now and then as a sentence; a room keeps its first letter."""
    if pick.rng.random() >= SENTENCE_SHARE or any(text.startswith(action["room"]) for action in actions):
        return text
    return text[0].upper() + text[1:] + ("" if text[-1] in "?!." else ".")


def _filled(pick: Picker, templates: Words, **parts: str) -> str:
    """One of the templates with its parts."""
    return pick.draw(templates).format(**parts)


def _place(pick: Picker) -> str:
    (kind,) = pick.rng.choices(("room", "here", "all"), (6, 2, 2))
    return _room(pick) if kind == "room" else kind


def _room(pick: Picker) -> str:
    kind = pick.rng.random() if pick.split == "train" else 1.0
    if kind < COMPOUND_SHARE:
        return f"{pick.draw(LISTS.qualifiers)} {_head(pick)}"
    if kind < COMPOUND_SHARE + INVENTED_SHARE:
        word = pick.invented()
        return pick.rng.choice((word, f"{word} {_head(pick)}"))
    return pick.draw(LISTS.rooms)


def _head(pick: Picker) -> str:
    """What the last word of a room's name may be."""
    return "room" if pick.rng.random() < 0.3 else pick.draw(LISTS.rooms).rpartition(" ")[2]


def _action(room: str, device: str, value: str | int) -> Action:
    return {"room": room, "device": device, "set": value}


_WORDS = sorted({state for states in STATES.values() for state in states} - {"percent", "degrees", *LEVELS})
SCHEMA = {
    "type": "object",
    "properties": {
        "actions": {
            "type": "array",
            "minItems": 1,
            "maxItems": 4,
            "items": {
                "type": "object",
                "properties": {
                    "room": {"type": "string", "minLength": 1, "maxLength": 40},
                    "device": {"type": "string", "enum": list(STATES)},
                    "set": {
                        "anyOf": [
                            {"type": "string", "enum": _WORDS},
                            {"type": "integer", "minimum": 0, "maximum": 100},
                        ]
                    },
                },
                "required": ["room", "device", "set"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["actions"],
    "additionalProperties": False,
}
TASK = Task(
    name="home-actions",
    title="A spoken wish becomes JSON actions",
    source="training/home.py",
    grammar="training/home_words.toml",
    system=(
        'Turn the wish into JSON: {"actions":[{"room":"kitchen","device":"light","set":"on"}]}. Devices: '
        + ", ".join(STATES)
        + ". set: on, off, open, closed, locked, unlocked, percent or degrees as a number."
        " The room is here when none is said, and all for the whole house."
    ),
    schema=SCHEMA,
    make=make,
    label=lambda answer: answer,
    num_train=2400,
)
