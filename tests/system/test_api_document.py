"""schemathesis tries the OpenAPI document against a running controller: what it promises must hold."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.fakes.controller import ControllerProcess

NUM_EXAMPLES = 25  # for each operation

# What a query or a setting means is not for a JSON schema to say, so 422 for data that fit the schema is right.
EXCLUDED = [positive_data_acceptance]


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("document")).ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def document(controller: ControllerProcess) -> Any:
    """What it says of itself, without the stream that does not end."""
    with controller.api() as api:
        found = schemathesis.openapi.from_dict(api.get("/v1/openapi.json").json())
    return found.exclude(path="/v1/events")


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(
    max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_the_document_is_true(case: Case, controller: ControllerProcess) -> None:
    """Whatever it sends is answered with a documented status and form, and never with a fault of the server."""
    token = controller.folder.operator_token.read_text()
    case.call_and_validate(
        base_url=controller.folder.url, headers={"Authorization": f"Bearer {token}"},
        verify=str(controller.path / "authority" / "root.crt"), excluded_checks=EXCLUDED,
    )  # fmt: skip
