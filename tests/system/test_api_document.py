"""schemathesis tries the OpenAPI document against a running controller: what it promises must hold."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.controller import ControllerProcess

NUM_EXAMPLES = 20  # for each operation
LAST = "/v1/operators/{name}"  # would revoke the operator who tries
ENDLESS = "/v1/events"  # an answer without an end

# What a JSON schema cannot say. All else is as schemathesis has it by itself: 401, 403, 404, 409 and 429 may answer
# what fits the schemas. 422: what is a query, which key is there, what was announced. 400 and 408: which schemas for
# answers a node can enforce, and whether `exp` has passed. 507: how large the disk is. 413 is not among its refusals:
# of too many messages, the body may be too long first.
CONFIG = """
[[operations]]
include-path = [
    "/v1/nodes", "/v1/latency", "/v1/wishes", "/v1/groups/{group}", "/v1/rollouts", "/v1/rollouts/plan", "/v1/plan",
    "/v1/apply", "/v1/trust/{role}/rotate", "/v1/uploads/{upload}",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429]

[[operations]]
include-path = "/v1/chat/completions"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 408, 409, 429]
checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]

[[operations]]
include-path = "/v1/releases"
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 429]

[[operations]]
include-path = "/v1/uploads"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 429, 507]
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 507]
"""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("document")).ready()
    yield running
    running.stop()


@pytest.mark.timeout(900)
def test_the_document_is_true(controller: ControllerProcess, tmp_path: Path) -> None:
    """Whatever fits it is accepted, whatever does not is refused, and each answer has a documented status and form."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    token = controller.folder.operator_token.read_text().strip()
    command = [
        sys.executable, "-m", "schemathesis.cli", f"--config-file={config}", "run",
        f"{controller.folder.url}/v1/openapi.json", f"--tls-verify={controller.path / 'authority' / 'root.crt'}",
        f"--header=Authorization: Bearer {token}", "--phases=coverage,fuzzing", f"--max-examples={NUM_EXAMPLES}",
        "--seed=1", "--continue-on-failure", "--no-color",
    ]  # fmt: skip
    for which in ((f"--exclude-path={ENDLESS}", f"--exclude-path={LAST}"), (f"--include-path={LAST}",)):
        done = subprocess.run([*command, *which], capture_output=True, text=True, cwd=tmp_path, check=False)
        said = "\n".join(line[:1000] for line in (done.stdout + done.stderr).splitlines())  # with whole requests in it
        assert done.returncode == 0, said
        assert "401 Unauthorized" not in done.stdout
