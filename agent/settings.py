"""The settings that can be changed from afar, as they hold in this process now. Whoever goes by one asks each time."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from agent.config import Config, Limits, Updates
from contract.requests import Privacy
from contract.settings import SETTINGS, TelemetryLevel, check


class Settings:
    """Begins with what is configured."""

    def __init__(self, config: Config, on_change: Mapping[str, Callable[[Any], None]]) -> None:
        """`on_change` has whoever must be told of a setting, by its name; the others ask."""
        self._config = config
        self._on_change = on_change
        self.configured = self.values

    @property
    def limits(self) -> Limits:
        """What is accepted."""
        return self._config.limits

    @property
    def privacy(self) -> Privacy:
        """Where prompts may go that do not say."""
        return self._config.privacy.default

    @property
    def telemetry(self) -> TelemetryLevel:
        """How much is measured and sent."""
        return self._config.telemetry.level

    @property
    def updates(self) -> Updates:
        """How releases are fetched."""
        return self._config.updates

    @property
    def values(self) -> dict[str, Any]:
        """All of them, by `section.key`."""
        return {name: getattr(getattr(self._config, section), key) for name, section, key in _NAMES}

    def change(self, name: str, value: object) -> None:
        """From now on it has this value.

        Raises:
            BadSetting: there is no such setting, or it cannot have this value.
        """
        check(name, value)
        section, _, key = name.partition(".")
        changed = replace(getattr(self._config, section), **{key: value})
        self._config = replace(self._config, **{section: changed})
        if name in self._on_change:
            self._on_change[name](value)


_NAMES = [(name, *name.split(".")) for name in SETTINGS]
