"""The generated pages are current, and the schemas say what the code accepts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from agent.config import SECTIONS, Config, parse_config, sample
from contract import messages, topics
from contract.answers import Accepted, Failure, Final
from contract.errors import Refused
from contract.presence import NodeState
from contract.requests import Request, decode_request
from docs import generate

SCRIPT = Path("docs/generate.py")


def validator(kind: type[msgspec.Struct]) -> jsonschema.Draft202012Validator:
    """Checks messages against their schema."""
    return jsonschema.Draft202012Validator(generate.schema_of(kind))


def test_generated_pages_are_current() -> None:
    """After a change of the contract or the configuration, `make docs` is due."""
    found = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", ["topics.md", "agent.toml", "schemas/request.json"])
def test_a_changed_page_is_noticed_and_repaired(name: str, tmp_path: Path) -> None:
    """One other character is enough."""
    shutil.copytree(generate.FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text((tmp_path / name).read_text("utf-8") + " ", "utf-8")
    assert generate.stale(tmp_path) == [name]
    assert generate.write(tmp_path) == [name]
    assert generate.stale(tmp_path) == []


def test_missing_pages_and_schemas_of_nothing_are_noticed(tmp_path: Path) -> None:
    """A renamed message must not leave its old schema behind."""
    assert set(generate.write(tmp_path)) == set(generate.pages())
    (tmp_path / "topics.md").unlink()
    (tmp_path / "schemas" / "gone.json").write_text("{}", "utf-8")
    assert generate.stale(tmp_path) == ["schemas/gone.json", "topics.md"]
    generate.write(tmp_path)
    assert not (tmp_path / "schemas" / "gone.json").exists()


def test_check_names_what_is_stale_and_fails(tmp_path: Path) -> None:
    """Seen from the outside, on a copy of the repository's documents."""
    shutil.copytree(generate.FOLDER, tmp_path / "docs")
    (tmp_path / "docs" / "topics.md").write_text("old", "utf-8")
    command = [sys.executable, str(tmp_path / "docs" / "generate.py"), "--check"]
    environment = {"PYTHONPATH": str(Path.cwd())}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "docs/topics.md is not current: run `make docs`\n")
    assert (tmp_path / "docs" / "topics.md").read_text("utf-8") == "old"


def test_every_topic_and_every_message_is_in_the_pages() -> None:
    """The registry of messages knows all topics, and all messages have a schema."""
    assert set(messages.ON_TOPIC) == set(topics.ALL)
    page = generate.topics_page()
    assert all(f"`{topic.TEMPLATE}`" in page for topic in topics.ALL)
    assert all(f"schemas/{generate.file_name(kind)}" in page for kind in messages.ALL)


@pytest.mark.parametrize("kind", messages.ALL)
def test_schemas_are_valid(kind: type[msgspec.Struct]) -> None:
    """Each is a JSON Schema of the dialect that it names, and every reference in it leads somewhere."""
    schema = generate.schema_of(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == kind.__name__
    assert schema["$id"] == generate.file_name(kind)
    parts = schema.get("$defs", {})
    assert _references(schema) == {f"#/$defs/{name}" for name in parts}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "hello"},
        {"id": "r1", "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}], "stream": True},
        {"prompt": "x", "adapter": None, "stop": ["\n"], "logit_bias": {"7": -1}, "unknown": {"is": "ignored"}},
        {"prompt": "x", "max_tokens": 0},
        {"prompt": "x", "id": "No"},
        {"prompt": "x", "priority": 10},
        {"prompt": 7},
        {"prompt": "x", "stop": [""]},
    ],
)
def test_the_schema_of_requests_and_the_decoder_agree(body: dict[str, Any]) -> None:
    """Somebody who checks against the schema is not surprised by the node."""
    try:
        decode_request(json.dumps(body).encode())
    except Refused:
        assert not validator(Request).is_valid(body)
    else:
        validator(Request).validate(body)


def test_what_the_code_makes_fits_the_schemas() -> None:
    """Answers and presence, whole and in part."""
    made: list[msgspec.Struct] = [
        Accepted(id="r1", node="n1", queue=0, model="m@1"),
        Final(id="r1", status=404, error=Failure("model", "cannot find it")),
        Final(id="r1", status=200, text="yes", finish_reason="stop", adapter=None, energy=None, last_seq=0),
        NodeState("online", 1, 0),
    ]
    for message in made:
        validator(type(message)).validate(json.loads(msgspec.json.encode(message)))


def test_the_sample_configuration_is_the_default_configuration() -> None:
    """With every key switched on it is accepted, and but for the node's id and directory it changes nothing."""
    lines = [line.removeprefix("# ") if _is_key(line) else line for line in sample().splitlines()]
    config = parse_config("\n".join(lines), "docs/agent.toml", {})
    default = Config()
    for section in SECTIONS:
        if section != "node":
            assert getattr(config, section) == getattr(default, section)
    assert sum(map(_is_key, sample().splitlines())) == sum(len(s.__struct_fields__) for s in SECTIONS.values())


def _is_key(line: str) -> bool:
    name, found, _ = line.removeprefix("# ").partition(" = ")
    return bool(found) and line.startswith("# ") and name.isidentifier()


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(_references(child) for child in value.values()))
    if isinstance(value, list):
        return set().union(*(_references(child) for child in value))
    return set()
