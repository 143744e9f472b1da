"""What can be ordered of a node by a command."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from msgspec import Meta, Struct

from agent.asking import Asking
from agent.catalog import Catalog
from agent.errors import ModelError
from agent.logs import Tail
from agent.orders import Operation
from contract.answers import Failure, Timings, Usage
from contract.requests import Request
from contract.status import Status

IDLE_LOOK_S = 0.1
# Not a benchmark: enough tokens to see that the model speaks, and about how fast.
TEST_TOKENS = 16


class NoArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to say."""


class LogsArgs(Struct, frozen=True, forbid_unknown_fields=True):
    """How much of the log."""

    lines: Annotated[int, Meta(ge=1, le=1000)] = 200


class Operations:
    """The operations of one daemon."""

    def __init__(self, models: Catalog, asking: Asking, tail: Tail, say_presence: Callable[[], None]) -> None:
        self._models = models
        self._asking = asking
        self._tail = tail
        self._say_presence = say_presence
        self.all = {
            "restart-engine": Operation(NoArgs, self._restart_engine),
            "selftest": Operation(NoArgs, self._selftest),
            "drain": Operation(NoArgs, self._drain),
            "undrain": Operation(NoArgs, self._undrain),
            "logs": Operation(LogsArgs, self._logs),
        }

    async def _restart_engine(self, _: NoArgs, __: int) -> dict[str, Any]:
        """A new process for the default model; what ran runs again in it."""
        local, ready = await self._models.restart_default()
        return {"model": local.model.label, "load_ms": round(ready.load_ms)}

    async def _selftest(self, _: NoArgs, left_ms: int) -> dict[str, Any]:
        """Some tokens of the bare default model, also while the node is drained. Their text goes nowhere."""
        local = self._models.default
        if local is None:
            raise ModelError("cannot test the default model: this node has none")
        request = Request(
            prompt="Count from one to twenty.", adapter=None, max_tokens=TEST_TOKENS, temperature=0, priority=9,
            ttl_ms=left_ms,
        )  # fmt: skip
        final = await self._asking.answer(request, local.answering, "selftest")
        usage = final.usage if isinstance(final.usage, Usage) else Usage()
        result: dict[str, Any] = {
            "ok": final.status == Status.OK and usage.completion_tokens > 0,
            "model": local.model.label,
            "completion_tokens": usage.completion_tokens,
        }
        if isinstance(final.error, Failure):
            result["error"] = final.error.message
        times = final.timings
        if isinstance(times, Timings) and times.first_token_ms is not None and usage.completion_tokens > 1:
            result["first_token_ms"] = times.first_token_ms
            later_s = (times.total_ms - times.first_token_ms) / 1000
            result["tok_s"] = round((usage.completion_tokens - 1) / later_s, 1) if later_s > 0 else None
        return result

    async def _drain(self, _: NoArgs, __: int) -> dict[str, Any]:
        """Nothing new is taken from now on, until `undrain` or a restart; ends when nothing waits or runs."""
        self._models.closed = True
        self._say_presence()
        while not self._models.is_idle:  # noqa: ASYNC110  # requests end in many places, and this is seldom
            await asyncio.sleep(IDLE_LOOK_S)
        return {}

    async def _undrain(self, _: NoArgs, __: int) -> dict[str, Any]:
        self._models.closed = False
        self._say_presence()
        return {}

    async def _logs(self, args: LogsArgs, _: int) -> dict[str, Any]:
        return {"lines": self._tail.last(args.lines)}
