"""What kills, damages or holds up a process that embeds llama.cpp, sent to a running agent.

The table was measured on llama.cpp itself: each row ended the process, or took it for most of a minute. Here each row
comes in from outside while somebody else's answer is on its way: every request is answered, the neighbour's is whole,
and the same two processes serve on. What only a bad model file can do has agents of its own: there the engine may
die, and the daemon stays.

Rows that no request can reach, because no input decides them: a row sampled without its logits flag, a regular
expression in a lazy grammar, saved key-value memory that was changed. Rows of adapters come with the adapters.
"""

import json
import os
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.client import IotClient
from tests.fakes.node import AgentProcess
from tests.system.conftest import ENDLESS, Lab

NEIGHBOUR: dict[str, Any] = {
    "id": "neighbour",
    "prompt": "Tell me a story.",
    "max_tokens": 150,
    "stream": True,
    **ENDLESS,
}
COLOUR = {"prompt": "Name a colour.", "max_tokens": 4}
NUM_VOCAB = 49_152


def fit(schema: Any, **fields: Any) -> dict[str, Any]:
    """A request whose answer must fit this schema."""
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    return {"prompt": "Anything.", "max_tokens": 8, "response_format": form, **fields}


def chain(length: int) -> dict[str, Any]:
    """A schema of references, each to the next."""
    links: dict[str, Any] = {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(length)}
    return {"$defs": {**links, f"d{length}": {"type": "boolean"}}, "$ref": "#/$defs/d0"}


def wrapped(depth: int, word: str) -> Any:
    """Lists in lists under this keyword."""
    made: Any = {"type": "boolean"}
    for _ in range(depth):
        made = {word: [made]} if word in ("anyOf", "allOf", "oneOf") else {"type": "array", word: made}
    return made


NASTY = [
    "",
    " ",
    '"',
    "\\",
    '\\"',
    "\n",
    "\x00",
    "\x7f",
    "]",
    "::=",
    '" | root',
    "(",
    "{1,9999}",
    "\u2028",
    "🙂",
    "a" * 2000,
]

PATTERNS = [r"^[\]\[^-]$", r"^[^\x00-\x7f]$", r"^\"\\$", "^[z-a]$", "^[]$"]
SLOW = ["é", "🙂", "\u0301", "9", " ", "'"]

# By row: requests, and what their statuses may be.
ROWS: dict[str, tuple[list[dict[str, Any]], set[int]]] = {
    "batch larger than n_batch": (
        [{"prompt": f"{n}: " + "word " * 350, "max_tokens": 2} for n in range(3)],
        {200},
    ),
    "encoder of a model that has none": (
        [{"input": "x", "task": "embed"}, {"input": ["x"] * 16, "task": "embed"}],
        {400},
    ),
    "chain without a selecting sampler": (
        [
            {**COLOUR, "temperature": t, "top_p": p, "top_k": k, "seed": s}
            for (t, p, k), s in zip(
                product((0, 5e-324, 1e-4, 2), (5e-324, 1), (0, 1, 10**6)),
                [0, -1, 2**63 - 1, -(2**63), 2**32 - 1, 2**32] * 4,
                strict=True,
            )
        ],
        {200},
    ),
    "bad grammar, a NULL in the chain": (
        [
            *[fit({"enum": [text, f"{text}!"]}) for text in NASTY],
            *[fit({"type": "object", "properties": {text: {"const": text}}, "required": [text]}) for text in NASTY],
            *[fit({"type": "string", "pattern": p}) for p in PATTERNS],
            fit({}), fit({"type": []}), fit({"not": {}}), fit({"enum": [None]}), fit({"const": {"a": [1, {}]}}),
        ],
        {200, 400, 422},
    ),
    "grammar nested 30,000 deep": (
        [
            fit({"type": "string", "pattern": "^" + "(" * 30_000 + "a" + ")" * 30_000 + "$"}),
            fit({"type": "string", "pattern": "^" + "(a|" * 10_000 + "b" + ")" * 10_000 + "$"}),
            fit({"type": "string", "pattern": "^a" + "?" * 10_000 + "$"}),
            fit(chain(60)), fit(chain(1500)),
            *[fit(wrapped(depth, word)) for depth in (60, 400) for word in ("anyOf", "allOf", "oneOf", "items")],
        ],
        {200, 400, 422},
    ),
    "token that the grammar rejects": (
        [
            *[fit({"type": "boolean"}, logit_bias={str(token): 100}) for token in (0, 1, 2, 5, 198, NUM_VOCAB - 1)],
            fit({"type": "boolean"}, logit_bias={str(token): -100 for token in range(1024)}),
            *[fit({"type": "object", "minProperties": 1}, stop=stop) for stop in ("{", '"', "}", "\n")],
            fit({"type": "array", "items": {"type": "integer"}, "minItems": 100}, max_tokens=1),
            fit({"type": "string"}, temperature=2, top_k=0, top_p=1, seed=7),
        ],
        {200, 400, 422},
    ),
    "copies of a part of a sequence": (
        [
            {
                "messages": [
                    {"role": "system", "content": "You know the house. " * 20},
                    {"role": "user", "content": "Name a colour." if number % 2 else f"Say {number}."},
                ],
                "max_tokens": 2,
            }
            for number in range(10)
        ],
        {200},
    ),
    "token id out of range": (
        [{**COLOUR, "logit_bias": {token: 1}} for token in ("-1", str(NUM_VOCAB), str(2**31), str(2**64), "1e3", "")],
        {400},
    ),
    "control tokens in user text": (
        [
            {"prompt": "<|im_end|>" * 24_000, "max_tokens": 2},
            {"messages": [{"role": "system", "content": "<|im_start|>system\n" * 10_000}], "max_tokens": 2},
            {"messages": [{"role": "user", "content": "<|endoftext|>"}] * 256, "max_tokens": 2},
            {"prompt": "<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>", "max_tokens": 4},
        ],
        {200, 413},
    ),
    "text that is slow to tokenize": (
        [
            *[{"prompt": text * (250_000 // len(text.encode())), "max_tokens": 2} for text in SLOW],
            {"prompt": "".join(map(chr, range(0x4E00, 0x4E00 + 20_000))) * 4, "max_tokens": 2},
        ],
        {400, 413},
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def same_processes(agent: AgentProcess) -> Iterator[None]:
    """Neither daemon nor engine was replaced by anything that no bad model file has to do with."""
    engine, daemon = agent.wait_engine(), agent.process.pid if agent.process else 0
    yield
    status = agent.peek()
    assert status is not None
    assert (status["pid"], status["engine"]["pid"], status["engine"]["restarts"]) == (daemon, engine, 0)
    assert status["quarantine"] == {}
    assert agent.faults() == []


@pytest.mark.parametrize("row", ROWS)
def test_row_kills_nothing_and_holds_nobody_up(client: IotClient, row: str) -> None:
    """Its requests get a status that fits, and who is being answered meanwhile gets everything."""
    requests, allowed = ROWS[row]
    client.ask(NEIGHBOUR)
    client.wait(lambda m: m.topic.endswith("/rx/neighbour/delta") and m.json["seq"] > 0)
    for number, request in enumerate(requests):
        client.ask(json.dumps({"id": f"h{number}", **request}, ensure_ascii=False))
    found = {f"h{number}": client.final(f"h{number}")["status"] for number in range(len(requests))}
    assert set(found.values()) <= allowed, found
    neighbour = client.final("neighbour")
    assert (neighbour["status"], neighbour["usage"]["completion_tokens"]) == (200, 150)
    client.settle()
    assert "".join(d["text"] for d in client.deltas("neighbour")[1:]) == neighbour["text"]


def test_as_many_sequences_as_there_may_be(lab: Lab) -> None:
    """Sequence ids beyond llama.cpp's 256 kill it; the most that the configuration allows, twice over, is far below."""
    assert lab.agent("[engine]\nparallel = 33\n").command("check").returncode == 2
    node, client = lab.online("[engine]\nparallel = 32\n[limits]\nclient_queue = 200\nqueue = 200\n")
    for number in range(40):
        client.ask({"id": f"s{number}", **COLOUR, "max_tokens": 2, "priority": number % 10})
    assert {client.final(f"s{number}")["status"] for number in range(40)} == {200}
    assert (node.peek() or {})["engine"]["restarts"] == 0


# Bad model files.


def put(file: Path, content: bytes) -> None:
    """Writes a file elsewhere and renames it into place."""
    fresh = file.with_name("fresh")
    fresh.write_bytes(content)
    fresh.replace(file)


def with_template(content: bytes, template: str) -> bytes:
    """A model with another chat template of the same length."""
    key = b"tokenizer.chat_template"
    at = content.index(key) + len(key) + 4  # behind the type
    size = int.from_bytes(content[at : at + 8], "little")
    assert len(template) <= size
    return content[: at + 8] + template.encode().ljust(size) + content[at + 8 + size :]


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_model_file_that_is_damaged_while_it_is_mapped(lab: Lab, model: Path, tmp_path: Path, damage: str) -> None:
    """The engine dies of SIGBUS or reads nonsense; the daemon stays, says why, and serves when the file is replaced."""
    file, content = tmp_path / "model.gguf", model.read_bytes()
    file.write_bytes(content)
    node = lab.agent(model=file).start()
    node.tolerated = "engine failed: NoChoice at"  # no logit is a number
    client = lab.client(node)
    node.wait_online(client)
    daemon = (node.peek() or {})["pid"]
    if damage == "truncated":
        os.truncate(file, 2**20)
    else:
        with file.open("r+b") as inside:
            inside.write(random.Random(3).randbytes(len(content)))
    for number in range(3):
        client.ask({"id": f"d{number}", **COLOUR, "priority": number})
    statuses = {client.final(f"d{number}")["status"] for number in range(3)}
    assert statuses <= {500, 503}
    put(file, content)
    node.wait_status(lambda s: s["state"] == "online" and s["engine"]["problem"] == "", "online agent")
    died: dict[str, dict[str, Any]] = {"truncated": {"code": -7}, "overwritten": {"death": "crash"}}
    assert node.records("engine ended", **died[damage])
    assert (node.peek() or {})["quarantine"] == {}  # nobody's request was to blame
    client.seen.clear()
    client.ask({"id": "good", **COLOUR})
    while (final := client.final("good"))["status"] == 503:
        client.seen.clear()
        client.ask({"id": "good", **COLOUR})
    assert final["status"] == 200
    assert (node.peek() or {})["pid"] == daemon


BOMBS = {
    "never ends": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", {500}, "stall"),
    "takes all memory": ("{{ 'a' * 99999999999 }}", {400}, None),
    "is long": ("{{ 'a' * 2000000 }}", {400}, None),
    "reaches for Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {400}, None),
    "writes to its input": ("{{ messages.clear() }}", {400}, None),
    "refuses": ("{{ raise_exception('no') }}", {400}, None),
    "divides by zero": ("{{ 1 / 0 }}", {400}, None),
    "calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {400}, None),
    "is no template": ("{% for", {503}, None),
    "raises what it likes": ("{{ 'a'.encode('no such encoding') }}", {400}, None),
}


@pytest.mark.parametrize("name", BOMBS)
def test_chat_template_of_a_hostile_model(lab: Lab, model: Path, tmp_path: Path, name: str) -> None:
    """A model's template is code of its maker: it gets no further than the engine, and the daemon stays."""
    template, allowed, death = BOMBS[name]
    file = tmp_path / "model.gguf"
    file.write_bytes(with_template(model.read_bytes(), template))
    node = lab.agent("[engine]\nstall_s = 2\n", model=file).start()
    client = lab.client(node)
    client.wait(lambda m: m.topic.endswith("/status"))
    client.ask({"id": "q", **COLOUR})
    final = client.final("q")
    assert final["status"] in allowed, final
    assert final["error"]["message"].startswith("cannot ")
    if final["status"] == 500:
        assert {r["death"] for r in node.records("engine ended")} == {death}
    put(file, model.read_bytes())
    node.stop()
    node.start()  # a template that works otherwise is not looked for again by itself
    client.ask({"id": "good", "prompt": "Name a colour, please.", "max_tokens": 2})
    assert client.final("good")["status"] == 200


def test_random_changes_of_a_model_file(lab: Lab, model: Path, tmp_path: Path) -> None:
    """In the header, where parsers are: a daemon with such a file answers, if only that it has no engine."""
    chance, content = random.Random(11), model.read_bytes()
    file = tmp_path / "model.gguf"
    node = lab.agent(model=file)
    client = lab.client(node)
    for number in range(6):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 4, 64))):
            changed[chance.randrange(24, 2**16)] = chance.randrange(256)
        put(file, bytes(changed))
        node.start()
        if number == 0:
            client.wait(lambda m: m.topic.endswith("/status"))
        client.ask({"id": f"m{number}", **COLOUR})
        assert client.final(f"m{number}")["status"] in (200, 400, 500, 503)
        assert node.stop() == 0
