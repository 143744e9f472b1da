"""One request on its way through the node."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agent.store.adapter_entries import Entry
from contract.answers import Delta, Final
from contract.requests import Request
from contract.status import Status


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """A request that was taken, what it has said so far, and where its answer goes.

    `arrived` and `deadline` are monotonic seconds, so that a clock that is set meanwhile moves no deadline.
    """

    client: str
    id: str
    request: Request
    arrived: float
    deadline: float
    on_delta: Callable[[Delta], None]
    on_final: Callable[[Final], Coroutine[Any, Any, None]]

    timer: asyncio.TimerHandle | None = None  # fires at the deadline
    adapter: Entry | None = None
    adapter_was_here: bool | None = None  # when the engine was sent the job; None: it needs none
    number: int = 0  # of the present run; frames of an earlier run carry another
    num_runs: int = 0
    suspect: bool = False  # an engine died while it ran: it runs again, but alone
    stop: tuple[Status, str, str] | None = None  # status, code and message when it was cancelled or has expired
    ended: bool = False
    started: float | None = None
    first_token: float | None = None
    engine_first_token_ms: float | None = None  # the engine's own time, from the job's arrival there
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    num_deltas: int = 0
    held_text: str = ""
    held_tokens: int = 0
