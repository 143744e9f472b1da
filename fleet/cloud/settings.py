"""`[cloud]` in fleet.toml: whom the controller may ask in place of nodes, and for how much."""

import os
import stat
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from contract.requests import Id
from fleet.errors import FolderError

NANO = 10**9  # of the currency; a token of 0.15 a million costs 150
PER_MILLION = NANO // 10**6

Money = Annotated[float, Meta(ge=0, le=1e6)]
Tokens = Annotated[int, Meta(ge=0, le=2**53)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class UpstreamSettings(_Section, frozen=True, kw_only=True):
    """A server that speaks OpenAI's API. Its key stands in a file that only its owner can read, or in the environment.

    `chat` has messages, `completions` is the legacy form with one text. Prices are for a million tokens, in the fleet's
    currency.
    """

    name: Id
    url: Annotated[str, Meta(pattern=r"^https?://[^\s]+$", description="Up to and with `/v1`.")]
    model: Annotated[str, Meta(min_length=1, max_length=200)]
    style: Literal["chat", "completions"] = "chat"
    key_file: str = ""
    key_env: str = ""
    input_price: Money = 0.0
    output_price: Money = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=131_072)] = 1024
    parallel: Annotated[int, Meta(ge=1, le=256)] = 8
    timeout_s: Annotated[float, Meta(gt=0, le=600)] = 60.0

    def key(self, folder: Path) -> str:
        """The provider's key, or nothing when it wants none.

        Raises:
            FolderError: it is not there, or others can read it.
        """
        if self.key_env:
            if key := os.environ.get(self.key_env, "").strip():
                return key
            raise FolderError(f"cannot ask {self.name}: {self.key_env} is not in the environment; set it to the key")
        if not self.key_file:
            return ""
        file = folder / self.key_file
        try:
            if stat.S_IMODE(file.stat().st_mode) & 0o077:
                raise FolderError(f"cannot use {file}: others can read it; chmod 600 it")
            return file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise FolderError(f"cannot read the key in {file}: {error}; write it there, with mode 0600") from error

    def cost_nano(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What tokens cost, in billionths of the currency; rounded up, so that no budget is passed by rounding."""
        cost = prompt_tokens * self.input_price + completion_tokens * self.output_price
        return -int(-cost * PER_MILLION // 1)


class Limit(_Section, frozen=True, kw_only=True):
    """What may be spent in a day (UTC). Nothing is no limit."""

    tokens_per_day: Tokens | None = None
    money_per_day: Money | None = None


class CloudSettings(_Section, frozen=True, kw_only=True):
    """Whom to ask, in this order, and the budgets: of the whole fleet, of each node, of each client."""

    upstreams: list[UpstreamSettings] = []
    fleet: Limit = Limit()
    node: Limit = Limit()
    client: Limit = Limit()
    node_requests_per_minute: Annotated[int, Meta(ge=1, le=100_000)] = 60
