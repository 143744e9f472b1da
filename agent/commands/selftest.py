"""`shoal-agent selftest`."""

import asyncio
from typing import Any

import msgspec
import typer

from agent.catalog import Catalog
from agent.commands.ask import answer_with
from agent.commands.output import Json, print_json
from agent.config import Config, load_config
from agent.logs import silence_logs
from agent.models import digest_of
from agent.store.database import Database
from agent.store.facts import Facts
from contract.requests import NamedSchema, Request, ResponseFormat

TTL_S = 120.0
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def selftest(as_json: Json = False) -> None:
    """Load the model in an engine of its own and try it: it speaks, twice the same, and fits a schema."""
    results = asyncio.run(_selftest(load_config()))
    if as_json:
        print_json(results)
    else:
        for result in results:
            print(f"{'ok  ' if result['ok'] else 'FAIL'} {result['test']}: {result['found']}")
    if not all(result["ok"] for result in results):
        raise typer.Exit(1)


async def _selftest(config: Config) -> list[dict[str, Any]]:
    silence_logs()
    database = Database(config.state_dir)
    models = Catalog(config, Facts(database))
    results: list[dict[str, Any]] = []

    def note(test: str, ok: bool, found: str) -> None:
        results.append({"test": test, "ok": ok, "found": found})

    try:
        local, ready = await models.wait_ready()
        note("engine starts", True, f"{ready.architecture}, {ready.context_tokens} tokens of context")
        found = await asyncio.to_thread(digest_of, local.model.path)
        note("model file is unchanged", found == local.model.sha256, found)
        question = Request(prompt="Name a colour.", max_tokens=12, temperature=0, seed=1)
        first = await answer_with(local, question, TTL_S)
        second = await answer_with(local, question, TTL_S)
        note("model speaks", bool(first.get("text", "").strip()), f"{first['usage']['completion_tokens']} tokens")
        note("same question, same answer", first.get("text") == second.get("text"), "greedy decoding, twice")
        form = ResponseFormat("json_schema", NamedSchema(SCHEMA))
        fitted = await answer_with(local, msgspec.structs.replace(question, response_format=form, max_tokens=64), TTL_S)
        note("answer fits a schema", fitted["status"] == 200, f"status {fitted['status']}")
        note("speed", True, f"{ready.prefill_tok_s:.0f} prompt tok/s, {ready.decode_tok_s:.0f} tok/s")
    finally:
        await models.stop()
        database.close()
    return results
