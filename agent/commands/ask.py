"""`shoal-agent ask`."""

import asyncio
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from agent.catalog import Catalog
from agent.commands.output import Json, finite, print_json
from agent.config import Config, load_config
from agent.control import call
from agent.errors import AgentError, ControlError
from agent.job import Job
from agent.local import LocalModel
from agent.logs import silence_logs
from agent.store.database import Database
from agent.store.facts import Facts
from contract.answers import Delta, Final
from contract.errors import Refused
from contract.requests import Request, decode_request


class AskError(AgentError):
    """There is no answer; the message says why."""


def ask(
    prompt: Annotated[str, typer.Argument(help="The prompt; '-' reads standard input.")],
    model: Annotated[str | None, typer.Option(help="Which model.  [default: the default one]")] = None,
    adapter: Annotated[str | None, typer.Option(help="Which adapter.  [default: the bare model]")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="At most this many tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(callback=finite, help="0 always takes the likeliest token.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    schema: Annotated[str | None, typer.Option(help="A JSON schema that the answer must fit: a file, or JSON.")] = None,
    ttl: Annotated[float, typer.Option(callback=finite, help="Seconds until the answer is of no use.")] = 300.0,
    stream: Annotated[bool, typer.Option(help="Print pieces as they come.")] = True,
    as_json: Json = False,
) -> None:
    """Ask the model on this device. Needs no broker; uses the running agent, or starts an engine for this once."""
    fields: dict[str, Any] = {
        "prompt": sys.stdin.read() if prompt == "-" else prompt,
        "model": model,
        "adapter": adapter,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "ttl_ms": round(ttl * 1000),
        "stream": stream and not as_json,
        "response_format": _response_format(schema),
    }
    body = {name: value for name, value in fields.items() if value is not None}
    try:
        decode_request(msgspec.json.encode(body))  # wrong values are told apart from a missing agent
    except Refused as no:
        raise typer.BadParameter(no.message) from None
    config = load_config()
    seen: list[str] = []

    def piece(text: str) -> None:
        seen.append(text)
        print(text, end="", flush=True)

    try:
        final = _ask_daemon(config, body, ttl, piece)
    except ControlError:
        final = asyncio.run(_ask_alone(config, body, ttl, piece))
    if as_json:
        print_json(final)
    else:
        print(str(final.get("text", "")).removeprefix("".join(seen)))
    if "error" in final:
        raise AskError(final["error"]["message"])


def _response_format(schema: str | None) -> dict[str, Any] | None:
    if schema is None:
        return None
    try:
        text = schema if schema.lstrip().startswith("{") else Path(schema).read_text("utf-8")
        return {"type": "json_schema", "json_schema": {"schema": msgspec.json.decode(text)}}
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read the schema: {error}; give a JSON file or JSON text") from None


def _ask_daemon(config: Config, body: dict[str, Any], ttl_s: float, piece: Callable[[str], None]) -> dict[str, Any]:
    for answer in call(config.state_dir, {"op": "ask", "request": body}, ttl_s + 5):
        if "delta" in answer:
            piece(answer["delta"]["text"])
        elif "error" in answer:
            raise AskError(answer["error"])
        else:
            return dict(answer["final"])
    raise AskError("cannot get an answer: the agent stopped")


async def _ask_alone(
    config: Config, body: dict[str, Any], ttl_s: float, piece: Callable[[str], None]
) -> dict[str, Any]:
    silence_logs()
    database = Database(config.state_dir)
    models = Catalog(config, Facts(database))
    request = msgspec.convert(body, Request)
    try:
        local, _ = await models.wait_ready(request)
        return await answer_with(local, request, ttl_s, piece)
    except Refused as no:
        raise AskError(no.message) from None
    finally:
        await models.stop()
        database.close()


async def answer_with(
    local: LocalModel, request: Request, ttl_s: float, piece: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """One answer from an engine that is ready."""
    answered: asyncio.Future[Final] = asyncio.get_running_loop().create_future()

    async def end(final: Final) -> None:
        answered.set_result(final)

    def show(delta: Delta) -> None:
        piece(delta.text)

    now = time.monotonic()
    local.answering.submit(
        Job(
            client="local",
            id=uuid.uuid4().hex,
            request=request,
            arrived=now,
            deadline=now + ttl_s,
            on_delta=show,
            on_final=end,
        )
    )
    return dict(msgspec.to_builtins(await answered))
