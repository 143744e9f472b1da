"""What is in force on this node of a wish: the default model, its adapters, and the settings.

The first active adapter answers requests to the default model that leave `adapter` out. Active adapters, and those that
would be gone back to, never make room for others.
"""

import asyncio
import contextlib
from collections.abc import Iterable

from msgspec import UNSET
from msgspec.structs import replace

from agent.catalog import Catalog
from agent.desired import Activate, Change, Present, Running, Step, Wish
from agent.settings import Settings
from contract.requests import Request
from contract.settings import BadSetting


class Activation:
    """Puts steps into force."""

    def __init__(self, models: Catalog, settings: Settings) -> None:
        self._models = models
        self._settings = settings
        self._adapters: list[str] = []  # `name@version`
        self._last_good: list[str] = []  # adapters that would be gone back to
        self._exchange = asyncio.Lock()  # updates activate, too

    @property
    def present(self) -> Present:
        """What this node has."""
        configured = self._models.configured
        return Present(
            models={file.label: file.sha256 for file in self._models.files},
            adapters={entry.label: entry.base_sha256 for entry in self._models.adapters.all()},
            configured_model=configured.label if configured else None,
            configured_settings=self._settings.configured,
        )

    @property
    def running(self) -> Running:
        """What is in force."""
        default = self._models.default
        return Running(
            model=default.model.label if default else None, adapters=self._adapters, settings=self._settings.values
        )

    def kept_adapters(self, needed: Iterable[str] = ()) -> set[str]:
        """Digests of the adapters that are active, of those that would be gone back to, and of others as needed."""
        labels = {*self._adapters, *self._last_good, *needed}
        return {entry.sha256 for entry in self._models.adapters.all() if entry.label in labels}

    def restore(self, wish: Wish) -> None:
        """Begins with what was in force when the last run ended well."""
        for name, value in wish.settings.items():
            with contextlib.suppress(BadSetting):  # of another version of the agent
                self._settings.change(name, value)
        self._models.prefer(wish.model)
        self._adapters = self._last_good = wish.adapters

    def hold(self, wish: Wish) -> None:
        """From now on this is what would be gone back to."""
        self._last_good = wish.adapters

    async def apply(self, step: Step) -> None:
        """Does a step.

        Raises:
            AgentError: it cannot be done.
            Refused: an adapter cannot be used with the model.
        """
        match step:
            case Change(name=name, value=value):
                self._settings.change(name, value)
            case Activate(model=model, adapters=adapters):
                async with self._exchange:
                    await self._activate(model, adapters)

    def complete(self, request: Request) -> Request:
        """A request with what it leaves open and this node has a setting for.

        Raises:
            Refused: there is no such model.
        """
        if request.privacy is None:
            request = replace(request, privacy=self._settings.privacy)
        if self._adapters and request.adapter is UNSET and request.task == "generate":
            local = self._models.choose(request)
            if local is not None and local is self._models.default:
                request = replace(request, adapter=self._adapters[0])
        return request

    async def _activate(self, model: str | None, adapters: list[str]) -> None:
        if model is not None:
            base = self.present.models.get(model, "")
            for adapter in adapters:
                self._models.adapters.find(adapter, base)
            await self._models.change_default(model)
        self._adapters = adapters
