"""The settings of a node that can be changed from afar: every name and what it accepts. Pure.

A name is `section.key` of the agent's configuration file. Whoever signs checks with `check`, and the node checks again.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from contract.ids import END
from contract.limits import MAX_TTL_MS
from contract.requests import Privacy

QueueLength = Annotated[int, Meta(ge=1, le=10_000)]
Ttl = Annotated[int, Meta(ge=1, le=MAX_TTL_MS)]
LogLevel = Literal["debug", "info", "warning", "error"]
TelemetryLevel = Literal["off", "low", "normal", "high"]
# Printable ASCII but for ?, # and @: what white space is, Python and JSON Schema do not agree on.
SourceUrl = Annotated[str, Meta(pattern=r'^https?://[!"$->A-~]+' + END, max_length=512)]
SourceUrls = Annotated[list[SourceUrl], Meta(max_length=8)]
RateKib = Annotated[int, Meta(ge=0, le=2**24)]
BudgetMib = Annotated[int, Meta(ge=0, le=2**24)]
_DAY = "(mon|tue|wed|thu|fri|sat|sun)"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
# As in "sat,sun 22:00-06:00 Europe/Berlin"; the days on which it begins and the zone may be left out.
Window = Annotated[str, Meta(pattern=f"^({_DAY}(,{_DAY})* )?{_TIME}-{_TIME}( [A-Za-z0-9_+/-]{{1,64}})?" + END)]
Windows = Annotated[list[Window], Meta(max_length=16)]
OnMetered = Literal["never", "adapters", "always"]

SETTINGS: dict[str, Any] = {
    "limits.queue": QueueLength,
    "limits.client_queue": QueueLength,
    "limits.ttl_ms": Ttl,
    "privacy.default": Privacy,
    "log.level": LogLevel,
    "telemetry.level": TelemetryLevel,
    "updates.sources": SourceUrls,
    "updates.rate_kib_s": RateKib,
    "updates.budget_mib_day": BudgetMib,
    "updates.window": Windows,
    "updates.on_metered": OnMetered,
    "updates.neighbours": bool,
}


class BadSetting(ValueError):
    """A setting that does not exist or cannot have this value."""


def check(name: str, value: object) -> None:
    """Whether a node can be told to have this.

    Raises:
        BadSetting: says what would be accepted.
    """
    if name not in SETTINGS:
        near = difflib.get_close_matches(name, SETTINGS, n=1, cutoff=0.5)
        rest = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(SETTINGS)}"
        raise BadSetting(f"cannot set {name!r} from afar: {rest}")
    try:
        msgspec.convert(value, SETTINGS[name])
    except msgspec.ValidationError as error:
        expected = f"{error}"
        raise BadSetting(f"cannot set {name} to {value!r}: {expected[:1].lower()}{expected[1:]}") from None


def effective(policies: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for a node: its own settings before its groups', and of two groups the later in the alphabet."""
    merged: dict[str, Any] = {}
    for group in sorted(policies):
        merged |= policies[group]
    return merged | dict(own)
