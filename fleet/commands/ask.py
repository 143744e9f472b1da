"""`fleet ask`: one prompt to a node or a pool, and its answer."""

import contextlib
import math
import sys
from typing import Annotated

import msgspec
import typer

from contract import limits
from fleet.errors import AnswerError, UsageError
from fleet.options import Options
from fleet.terminal import complain

DEFAULT_CLIENT = "fleet-cli"
INTERRUPTED = 130

EPILOG = (
    "Exit codes: 0 answered · 1 the node answered with an error, or not before the deadline · "
    "2 wrong usage · 4 no broker · 130 interrupted with Ctrl-C, which cancels the request."
)


def ask(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="The node's id; with --pool a pool's.")],
    prompt: Annotated[str, typer.Argument(help="The prompt, or - to read it from standard input.")],
    pool: Annotated[bool, typer.Option("--pool", help="Ask any member of a pool.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the text as it comes.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the final as JSON; with --stream each message, one a line.")
    ] = False,
    schema: Annotated[
        str | None, typer.Option(help="A JSON schema the answer must fit: a file, or the schema itself.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model shall know before the prompt.")] = None,
    model: Annotated[str | None, typer.Option(help="name or name@version; else the node's own.")] = None,
    adapter: Annotated[str | None, typer.Option(help="name or name@version; else the node's own.")] = None,
    no_adapter: Annotated[bool, typer.Option("--no-adapter", help="Ask the bare base model.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="How long the answer may be.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 (always the likeliest) to 2.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same choice.")] = None,
    ttl: Annotated[float, typer.Option(help="Seconds within which it must be answered.")] = 60.0,
    client: Annotated[
        str | None, typer.Option(envvar="SHOAL_CLIENT", help="Who asks; default: the broker's user name.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 9; 4 is usual, 9 goes first.")] = None,
) -> None:
    """Ask a node something."""
    from contract.ids import new_request_id
    from contract.status import Status
    from contract.topics import NodeRequest, PoolRequest
    from fleet.exchange import Exchange, failure_sentence
    from fleet.question import check_id, check_request, prompt_fields, read_prompt, read_schema
    from fleet.showing import show

    options: Options = ctx.obj
    sender = check_id("--client", client or _default_client(options))
    if not 0.001 <= ttl <= limits.MAX_TTL_MS / 1000:
        raise UsageError(f"cannot use --ttl {ttl:g}: 0.001 to {limits.MAX_TTL_MS // 1000} seconds are accepted")
    if adapter is not None and no_adapter:
        raise UsageError(f"cannot use --adapter {adapter} with --no-adapter: choose one of them")
    fields = prompt_fields(read_prompt(prompt, sys.stdin.buffer), system) | {
        "id": new_request_id(),
        "stream": stream or None,
        "response_format": None if schema is None else read_schema(schema),
        "model": model,
        "adapter": None if no_adapter else adapter or msgspec.UNSET,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "priority": priority,
        "ttl_ms": math.ceil(ttl * 1000),
    }
    request = check_request(fields)
    to: PoolRequest | NodeRequest
    to = PoolRequest(check_id("pool", node), sender) if pool else NodeRequest(check_id("node", node), sender)
    try:
        with (
            options.open_link(session_s=math.ceil(ttl)) as link,
            contextlib.closing(Exchange(link, options.fleet, to, request)) as exchange,
        ):
            final = show(exchange, stream=stream, json=json)
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(INTERRUPTED) from None
    if final.status != Status.OK:
        raise AnswerError(failure_sentence(final))


def _default_client(options: Options) -> str:
    from contract.ids import is_id

    user = options.broker.user
    return user if user is not None and is_id(user) else DEFAULT_CLIENT
