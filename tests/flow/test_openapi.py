"""The OpenAPI document is made from what the controller serves."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.topics import Topic
from fleet.beginning import begin
from fleet.database.store import open_database
from fleet.enrolment import Enrolment
from fleet.forgetting import Forgetting
from fleet.gateway import Gateway
from fleet.inventory import Inventory
from fleet.operators import Operators
from fleet.readings import Readings
from fleet.releases.opening import open_publishing
from fleet.rollouts import Rollouts
from fleet.steering import Steering
from fleet.web.api import Parts, all_endpoints
from fleet.web.openapi import document
from tests.fakes.controller import settings

NOW_MS = 1_800_000_000_000


def now_ms() -> int:
    """A clock that stands."""
    return NOW_MS


def post(_topic: Topic, _payload: bytes) -> bool:
    """There is no broker."""
    return False


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The document of a new controller."""
    folder = begin(tmp_path_factory.mktemp("openapi") / "ctl", settings())
    assert folder is not None
    database = open_database(folder.database_url)
    inventory = Inventory(database, now_ms)
    publishing = open_publishing(folder, database, now_ms)
    steering = Steering(database, inventory, folder.signing_keys(), post, now_ms, publishing.catalogue.approves)
    enrolment, operators = Enrolment(folder, database, now_ms), Operators(database, now_ms)
    forgetting, readings = Forgetting(database, inventory, steering, post, now_ms), Readings(database, now_ms)
    rollouts = Rollouts(database, inventory, steering, post, now_ms, publishing.catalogue.approves)
    parts = Parts(
        folder, database, enrolment, operators, Gateway(folder), inventory, steering, rollouts, forgetting, readings,
        publishing, now_ms,
    )  # fmt: skip
    yield document(all_endpoints(parts), "1.2.3")
    database.close()


def references(value: Any) -> Iterator[str]:
    """Every reference in a JSON value."""
    if isinstance(value, dict):
        yield from (text for key, text in value.items() if key == "$ref")
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from references(child)


def test_every_reference_leads_somewhere(page: dict[str, Any]) -> None:
    """And every schema is used."""
    used, parts = set(references(page)), page["components"]
    assert used == {f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in parts[kind]}


def test_every_operation_says_who_may_and_what_may_go_wrong(page: dict[str, Any]) -> None:
    """With a name of its own, and its parameters."""
    operations = [(path, one) for path, methods in page["paths"].items() for one in methods.values()]
    assert len(operations) > 20
    assert len({one["operationId"] for _, one in operations}) == len(operations)
    for path, one in operations:
        assert re.match(r"Least role: (viewer|operator|admin)( or client)?\.", one["description"])
        assert {"200", "400", "401", "403", "404", "422", "503"} <= set(one["responses"])
        named = [parameter["name"] for parameter in one["parameters"] if parameter["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)


def test_the_page_names_every_route(page: dict[str, Any]) -> None:
    """docs/http-api.md has a line for each, with the role."""
    text = Path("docs/http-api.md").read_text("utf-8")
    for path, methods in page["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in text, (method, path)
