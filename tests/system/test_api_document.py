"""schemathesis tries the OpenAPI document against a running controller: what it promises must hold."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from tests.fakes.controller import ControllerProcess

NUM_EXAMPLES = 20  # for each operation, of what fits its schemas and of what does not

CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # What a query or a setting means is not for a JSON schema to say, so 422 for data that fit one is right.
            "positive_data_acceptance": {"expected-statuses": ["2xx", 404, 408, 409, 422, 503]},
            # A node that was enrolled a moment ago, and asked before it ever came.
            "negative_data_rejection": {"expected-statuses": [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503]},
            "not_a_server_error": {"expected-statuses": ["2xx", "4xx", 503]},
        }
    }
)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("document")).ready()
    yield running
    running.stop()


def has_odd_integer(value: Any) -> bool:
    """Whether there is a 1.0 in it, which is an integer for JSON Schema, and none for us and any encoder we know."""
    if isinstance(value, dict | list):
        return any(map(has_odd_integer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value.is_integer()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_document_is_true(controller: ControllerProcess, mode: GenerationMode) -> None:
    """Whatever it sends is answered with a documented status and form, and never with a fault of the server."""
    token = controller.folder.operator_token.read_text()
    root = str(controller.path / "authority" / "root.crt")

    def send(case: Case[Any]) -> None:
        assume(not has_odd_integer(case.body))
        case.call_and_validate(
            base_url=controller.folder.url, headers={"Authorization": f"Bearer {token}"}, verify=root,
        )  # fmt: skip

    with controller.api() as api:
        document = schemathesis.openapi.from_dict(api.get("/v1/openapi.json").json(), config=CONFIG)
    tried = 0
    for found in document.exclude(path="/v1/events").get_all_operations():  # that stream has no end
        assert isinstance(found, Ok), found
        strategy = found.ok().as_strategy(generation_mode=mode)
        limits = settings(
            max_examples=NUM_EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        limits(given(strategy)(send))()
        tried += 1
    assert tried > 20
