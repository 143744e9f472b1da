"""Settings that can be changed from afar."""

from typing import Any, get_type_hints

import msgspec
import pytest

from agent.config import SECTIONS, Config
from contract.settings import SETTINGS, BadSetting, check, effective


def test_their_names_and_values_are_those_of_the_configuration() -> None:
    """What the operator writes in the file can be written from afar, within the same bounds."""
    for name, kind in SETTINGS.items():
        section, _, key = name.partition(".")
        if section in SECTIONS:
            assert _schema(get_type_hints(SECTIONS[section], include_extras=True)[key]) == _schema(kind)
            check(name, getattr(getattr(Config(), section), key))


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("limits.queue", 0, ">= 1"),
        ("limits.queue", "8", "expected `int`"),
        ("limits.queue", True, "expected `int`"),
        ("log.level", "loud", "invalid enum value 'loud'"),
        ("limits.que", 8, "did you mean 'limits.queue'?"),
        ("node.id", "n2", "there are limits.queue"),
    ],
)
def test_others_are_refused_with_what_would_do(name: str, value: object, hint: str) -> None:
    """Nothing is converted silently, and nothing else of the configuration can be reached."""
    with pytest.raises(BadSetting, match="cannot set") as refusal:
        check(name, value)
    assert hint in str(refusal.value)


def test_a_nodes_own_settings_win() -> None:
    """Over those of its groups, and of two groups the later in the alphabet wins, in whatever order they came."""
    groups = {"stores": {"a": 1, "b": 1}, "all": {"a": 2, "b": 2, "c": 2}}
    expected = {"a": 1, "b": 3, "c": 2}
    assert effective(groups, {"b": 3}) == expected
    assert effective(dict(reversed(groups.items())), {"b": 3}) == expected


def _schema(kind: Any) -> dict[str, Any]:
    return {key: value for key, value in msgspec.json.schema(kind).items() if key != "description"}
