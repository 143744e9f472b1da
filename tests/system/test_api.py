"""The HTTP API: who may do what, what is written down, and what strangers can send."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract.topics import GroupPolicy, NodeCard, NodeReported, NodeStatus
from tests.fakes.controller import ControllerProcess
from tests.fakes.scripted_node import ScriptedNode
from tests.fakes.waiting import until

ROLES = ("nobody", "client", "viewer", "operator", "admin")

CHAT = {"model": "node:nobody", "messages": [{"role": "user", "content": "hello"}]}
# Every method of every path, the least role that may, and a body. Written from docs/http-api.md.
TABLE: list[tuple[str, str, str, Any]] = [
    ("GET", "/v1/me", "client", None),
    ("GET", "/v1/models", "client", None),
    ("POST", "/v1/chat/completions", "client", CHAT),
    ("GET", "/v1/status", "viewer", None),
    ("GET", "/v1/nodes", "viewer", None),
    ("GET", "/v1/nodes/{node}", "viewer", None),
    ("GET", "/v1/nodes/{node}/why", "viewer", None),
    ("GET", "/v1/nodes/{node}/telemetry/sys", "viewer", None),
    ("GET", "/v1/nodes/{node}/telemetry/infer", "viewer", None),
    ("GET", "/v1/latency", "viewer", None),
    ("GET", "/v1/events", "viewer", None),
    ("GET", "/v1/audit", "viewer", None),
    ("GET", "/v1/groups", "viewer", None),
    ("POST", "/v1/progress", "viewer", {"wishes": [{"node": "n1", "rev": 1}]}),
    ("GET", "/v1/cloud/audit", "viewer", None),
    ("GET", "/v1/reports/cost", "viewer", None),
    ("GET", "/v1/rollouts", "viewer", None),
    ("GET", "/v1/rollouts/{rollout}", "viewer", None),
    ("GET", "/v1/rollouts/{rollout}/nodes", "viewer", None),
    ("POST", "/v1/rollouts", "operator", {"release": "tiny@1", "query": "site=a"}),
    ("POST", "/v1/rollouts/plan", "viewer", {"release": "tiny@1", "query": "site=a"}),
    ("POST", "/v1/rollouts/{rollout}/pause", "operator", {"reason": "it is late"}),
    ("POST", "/v1/rollouts/{rollout}/resume", "operator", {"pause": 1}),
    ("POST", "/v1/rollouts/{rollout}/approve", "operator", {"wave": 1}),
    ("POST", "/v1/rollouts/{rollout}/abort", "operator", {"reason": "it babbles"}),
    ("POST", "/v1/plan", "viewer", {"groups": {}}),
    ("POST", "/v1/apply", "operator", {"groups": {}}),
    ("POST", "/v1/wishes", "operator", {"nodes": ["nobody"], "settings": {"log.level": "debug"}}),
    ("PUT", "/v1/groups/{group}", "operator", {"query": "site=a"}),
    ("PUT", "/v1/groups/{group}/policy", "operator", {"settings": {}}),
    ("DELETE", "/v1/groups/{group}", "operator", None),
    ("POST", "/v1/nodes/{node}/commands", "operator", {"op": "logs"}),
    ("DELETE", "/v1/nodes/{node}", "admin", None),
    ("GET", "/v1/releases", "viewer", None),
    ("GET", "/v1/releases/{name}", "viewer", None),
    ("POST", "/v1/releases", "admin", {"name": "tiny", "version": "1", "kind": "model", "sha256": "a" * 64}),
    ("GET", "/v1/releases/{name}/file", "viewer", None),
    ("POST", "/v1/releases/{name}/yank", "admin", {"reason": "it babbles"}),
    ("POST", "/v1/uploads", "admin", {"sha256": "a" * 64, "bytes": 1}),
    ("PUT", "/v1/uploads/{upload}", "admin", None),
    ("POST", "/v1/bundles", "admin", {"releases": ["tiny@1"]}),
    ("POST", "/v1/bundles/import", "admin", {"sha256": "a" * 64}),
    ("GET", "/v1/trust", "viewer", None),
    ("POST", "/v1/trust/{role}/revoke", "admin", {"key": "00000000"}),
    ("POST", "/v1/trust/{role}/rotate", "admin", {"old": "00000000"}),
    ("GET", "/v1/trust/{role}/pending", "viewer", None),
    ("POST", "/v1/trust/{role}/pending", "admin", {"text": ""}),
    ("DELETE", "/v1/trust/{role}/pending", "admin", None),
    ("GET", "/v1/operators", "admin", None),
    ("POST", "/v1/operators", "admin", {"name": "eve", "role": "viewer"}),
    ("DELETE", "/v1/operators/{name}", "admin", None),
    ("GET", "/v1/tokens", "viewer", None),
    ("GET", "/v1/clients", "viewer", None),
    ("POST", "/v1/tokens", "admin", {"node": "n9"}),
    ("POST", "/v1/clients", "admin", {"client": "c9"}),
    ("POST", "/v1/clients/{client}/key", "admin", None),
    ("DELETE", "/v1/identities/{id}", "admin", None),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def controller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker, on each database."""
    url = "" if request.param == "sqlite" else str(request.getfixturevalue("postgres").new_database())
    running = ControllerProcess(tmp_path_factory.mktemp("api"), url).ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def tokens(controller: ControllerProcess) -> dict[str, str]:
    """A token of each role."""
    made = {role: controller.operator(role) for role in ("viewer", "operator", "admin")}
    with controller.api() as api:
        api.post("/v1/clients", json={"client": "app"}).raise_for_status()
        made["client"] = api.post("/v1/clients/app/key").raise_for_status().json()["key"]
    return made | {"nobody": "nobody:x"}


def error_of(answer: httpx.Response) -> str:
    """The code of a refusal, whose form is always the same."""
    error = answer.json()["error"]
    assert answer.headers["content-type"] == "application/json"
    assert error["message"].startswith("cannot "), error
    return str(error["code"])


def audit(api: httpx.Client, **wanted: str) -> list[dict[str, Any]]:
    """The entries that fit, the newest first."""
    return list(api.get("/v1/audit", params=wanted).raise_for_status().json())


def test_the_table_has_every_route(controller: ControllerProcess) -> None:
    """A new route needs a line here, and its role a line in the document."""
    with controller.api() as api:
        paths = api.get("/v1/openapi.json").json()["paths"]
    found = {(method.upper(), path): one for path, methods in paths.items() for method, one in methods.items()}
    assert set(found) == {(method, path) for method, path, _, _ in TABLE}
    for method, path, least, _ in TABLE:
        assert ("client" if least == "client" else least) in found[method, path]["description"]


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_it_should_and_no_more(
    controller: ControllerProcess, tokens: dict[str, str], role: str
) -> None:
    """Every role on every route."""
    with controller.api(tokens[role]) as api:
        for method, path, least, body in TABLE:
            names = dict.fromkeys(("node", "group", "name", "client", "id", "upload", "rollout"), "nobody")
            sent: dict[str, Any] = {"json": body, "params": {"version": "1"} if "/releases/" in path else {}}
            if method == "PUT" and body is None:
                sent = {"content": b"x", "headers": {"Content-Type": "application/octet-stream"}}
            with api.stream(method, path.format(**names, role="root"), **sent) as answer:
                is_stream = answer.headers["content-type"].startswith("text/event-stream")
                if not is_stream:
                    answer.read()
            may = ROLES.index(role) >= ROLES.index(least) and not (role == "viewer" and path == "/v1/chat/completions")
            if role == "nobody":
                assert (answer.status_code, error_of(answer)) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
            elif may:
                assert answer.status_code in (200, 404, 409), (path, answer.status_code)
            else:
                assert (answer.status_code, error_of(answer)) == (403, "forbidden"), path


def test_without_a_token_only_devices_are_served(controller: ControllerProcess) -> None:
    """Health, the root, and the document; whatever stands in the header."""
    with httpx.Client(base_url=controller.folder.url, verify=controller.tls()) as api:
        for path in ("/healthz", "/v1/ca", "/v1/openapi.json"):
            assert api.get(path).status_code == 200
        for header in ("", "Bearer", "Bearer :", "Basic YTpi", "Bearer \xff\xfe", "bearer a b c", "x" * 5000):
            answer = api.get("/v1/status", headers={b"Authorization": header.encode("latin-1")})
            assert (answer.status_code, error_of(answer)) == (401, "unauthorized"), header


def test_a_revoked_token_is_refused_at_once_and_ends_its_stream(controller: ControllerProcess) -> None:
    """Also while it watches."""
    token = controller.operator("viewer")
    with controller.api() as admin, controller.api(token) as viewer, viewer.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: status"
        admin.delete(f"/v1/operators/{token.partition(':')[0]}").raise_for_status()
        assert viewer.get("/v1/status").status_code == 401
        list(lines)  # it ends


def test_every_write_is_written_down(controller: ControllerProcess) -> None:
    """By whom, what, and about what; one entry for each."""
    with ScriptedNode(controller, "audited"), controller.api() as admin:
        token = admin.post("/v1/operators", json={"name": "wri", "role": "admin"}).json()["token"]
        with controller.api(token) as api:
            writes: list[tuple[str, str, Any, str, str]] = [
                ("POST", "/v1/operators", {"name": "wri2", "role": "viewer"}, "operator.create", "wri2"),
                ("DELETE", "/v1/operators/wri2", None, "operator.revoke", "wri2"),
                ("POST", "/v1/tokens", {"node": "wri-n"}, "token.create", "wri-n"),
                ("POST", "/v1/clients", {"client": "wri-c"}, "token.create", "wri-c"),
                ("POST", "/v1/clients/wri-c/key", None, "client.key", "wri-c"),
                ("DELETE", "/v1/identities/wri-c", None, "revoke", "wri-c"),
                ("POST", "/v1/wishes", {"nodes": ["audited"], "settings": {"log.level": "debug"}}, "wish", "audited"),
                ("PUT", "/v1/groups/wri-g", {"query": "site=a"}, "group", "wri-g"),
                ("PUT", "/v1/groups/wri-g/policy", {"settings": {"log.level": "info"}}, "policy", "wri-g"),
                ("DELETE", "/v1/groups/wri-g", None, "group delete", "wri-g"),
                ("POST", "/v1/nodes/audited/commands", {"op": "logs"}, "cmd logs", "audited"),
            ]
            for method, path, body, _, _ in writes:
                assert api.request(method, path, json=body).status_code == 200, path
        entries = audit(admin, actor="wri")
    assert [(e["action"], e["subject"]) for e in reversed(entries)] == [(what, whom) for *_, what, whom in writes]


def test_a_node_that_is_forgotten_leaves_nothing_at_the_broker(controller: ControllerProcess) -> None:
    """Its retained messages are gone, so it does not come back with the next connection."""
    with ScriptedNode(controller, "gone") as node:
        node.report(3)
    with controller.api() as api, controller.watch() as watcher:
        until(lambda: api.get("/v1/nodes/gone").json()["record"]["state"] == "offline", "goodbye")
        done = controller.fleet("forget", "gone")
        assert (done.returncode, done.stdout) == (0, "gone is forgotten.\n"), done.stderr
        assert api.get("/v1/nodes/gone").status_code == 404
        assert audit(api, action="forget", subject="gone")
        # What the controller publishes next comes after what it emptied.
        api.put("/v1/groups/after", json={"query": "site=a"}).raise_for_status()
        api.put("/v1/groups/after/policy", json={"settings": {"log.level": "info"}}).raise_for_status()
        watcher.subscribe({GroupPolicy("after").path("home"): 1})
        assert watcher.next(20)
        watcher.subscribe({kind("gone").path("home"): 1 for kind in (NodeStatus, NodeCard, NodeReported)})
        watcher.subscribe({GroupPolicy("after").path("home"): 1})
        again = watcher.next(20)
        assert again
        assert again.topic == GroupPolicy("after").path("home")
        api.delete("/v1/groups/after").raise_for_status()


def test_what_was_said_to_a_model_is_nowhere(controller: ControllerProcess) -> None:
    """Neither in the audit, nor in the log, nor in the database."""
    secret = "the-color-of-the-door-is-teal"
    with ScriptedNode(controller, "discreet") as node, controller.api() as api:
        body = {"model": "node:discreet", "messages": [{"role": "user", "content": secret}]}
        assert api.post("/v1/chat/completions", json=body).status_code == 200
        assert api.post("/v1/chat/completions", json=body | {"temperature": 9, "user": secret}).status_code == 400
        assert node.requests.get(timeout=20)["messages"][0]["content"] == secret
        assert secret not in str(audit(api, actor="admin"))
    files = [controller.log, *controller.path.glob("fleet.db*")]
    assert not [file for file in files if secret.encode() in file.read_bytes()]


BODIES: list[tuple[bytes, str, int, str]] = [
    (b"", "application/json", 400, "bad_body"),
    (b"{", "application/json", 400, "bad_body"),
    (b"[]", "application/json", 400, "bad_body"),
    (b"\xff\xfe", "application/json", 400, "bad_body"),
    (b'{"name": "a\\ud800", "role": "viewer"}', "application/json", 400, "bad_body"),
    (b"[" * 50_000, "application/json", 400, "bad_body"),
    (b'{"name": "mal", "role": "king"}', "application/json", 400, "bad_body"),
    (b'{"name": "mal", "rule": "viewer"}', "application/json", 400, "bad_body"),
    (b'{"name": "mal", "role": "viewer", "ttl_s": 1e400}', "application/json", 400, "bad_body"),
    (b'{"name": "../../etc", "role": "viewer"}', "application/json", 400, "bad_body"),
    (b"{}", "text/plain", 415, "not_json"),
    (b"{}", "", 415, "not_json"),
    (b" " * 70_000, "application/json", 413, "too_large"),
]


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_a_body_that_is_none_has_its_status(controller: ControllerProcess, number: int) -> None:
    """And one sentence; nothing of it is done."""
    body, kind, status, code = BODIES[number]
    with controller.api() as api:
        answer = api.post("/v1/operators", content=body, headers={"Content-Type": kind})
        assert (answer.status_code, error_of(answer)) == (status, code)
        assert "mal" not in {one["name"] for one in api.get("/v1/operators").json()}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/nodes?limit=0", 400, "bad_parameter"),
        ("/v1/nodes?limit=ten", 400, "bad_parameter"),
        ("/v1/nodes?limit=1&limit=2", 400, "bad_parameter"),
        ("/v1/nodes?limmit=1", 400, "bad_parameter"),
        ("/v1/nodes?query=%00", 400, "bad_parameter"),
        ("/v1/nodes?query=" + "x" * 2000, 400, "bad_parameter"),
        ("/v1/nodes?query=site%3D", 422, "invalid"),
        ("/v1/nodes?query=" + "(" * 500, 422, "invalid"),
        ("/v1/nodes?sort=wings", 422, "invalid"),
        ("/v1/nodes/none", 404, "not_found"),
        ("/v1/nodes/%2e%2e%2f%2e%2e", 404, "not_found"),
        ("/v1/nodes/" + "x" * 5000, 404, "not_found"),
        ("/v1/nodes/a%00b", 404, "not_found"),
        ("/v1/nodes/n1/", 404, "not_found"),
        ("/v2/status", 404, "not_found"),
        ("/", 404, "not_found"),
    ],
)
def test_a_path_or_parameter_that_is_none_has_its_status(
    controller: ControllerProcess, path: str, status: int, code: str
) -> None:
    """And one sentence."""
    with controller.api() as api:
        answer = api.get(path)
        assert (answer.status_code, error_of(answer)) == (status, code)


def test_a_whole_number_may_be_written_as_a_float(controller: ControllerProcess) -> None:
    """1.0 is 1, as JSON Schema has it; 1.5 and 1e300 are no integers of ours."""
    with controller.api() as api:
        headers = {"Content-Type": "application/json"}
        for number, status in (("60.0", 200), ("6e1", 200), ("60.5", 400), ("1e300", 400), ('"60"', 400)):
            answer = api.post("/v1/tokens", content=f'{{"node": "whole", "ttl_s": {number}}}', headers=headers)
            assert answer.status_code == status, number
        wish = b'{"query": "node=nobody", "settings": {"limits.queue": 8.0}}'
        assert api.post("/v1/wishes", content=wish, headers=headers).status_code == 200


def test_a_span_that_ends_before_it_begins_is_empty(controller: ControllerProcess) -> None:
    """So is one that begins in the future."""
    with controller.api() as api:
        for span in ({"since_ms": 2, "until_ms": 1}, {"since_ms": 2**53}):
            assert api.get("/v1/latency", params=span).raise_for_status().json() is None


@pytest.mark.parametrize(("method", "path"), [(method, "/v1/operators") for method in ("PATCH", "OPTIONS", "PUT")])
def test_a_wrong_method_is_told_the_right_ones(controller: ControllerProcess, method: str, path: str) -> None:
    """All of them, though each has its own handler."""
    with controller.api() as api:
        answer = api.request(method, path)
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}


def test_the_controllers_own_client_cannot_be_had(controller: ControllerProcess) -> None:
    """Nobody enrols as the gateway, gets its key, or takes it away."""
    with controller.api() as api:
        for method, path, body in (
            ("POST", "/v1/clients", {"client": "gateway"}),
            ("POST", "/v1/tokens", {"node": "gateway"}),
            ("DELETE", "/v1/identities/gateway", None),
            ("POST", "/v1/clients/gateway/key", None),
        ):
            answer = api.request(method, path, json=body)
            assert (answer.status_code, error_of(answer)) == (409, "conflict"), path


def test_nodes_are_found_sorted_and_paged(controller: ControllerProcess) -> None:
    """By query, by field, and a part of them."""
    with (
        ScriptedNode(controller, "paged-a", site="store-1", labels={"row": "2"}),
        ScriptedNode(controller, "paged-b", site="store-1", labels={"row": "1"}),
        controller.api() as api,
    ):

        def names(**wanted: Any) -> list[str]:
            page = api.get("/v1/nodes", params={"query": "site=store-1", **wanted}).raise_for_status().json()
            assert page["num_nodes"] == 2
            return [one["node"] for one in page["nodes"]]

        assert names() == ["paged-a", "paged-b"]
        assert names(sort="-node") == names(sort="label.row") == ["paged-b", "paged-a"]
        assert names(limit=1, offset=1) == ["paged-b"]
        assert names(offset=2) == []


def test_a_wish_and_a_command_reach_a_node_and_tell_how_it_went(controller: ControllerProcess) -> None:
    """From wish to report, and from command to event."""
    with ScriptedNode(controller, "steered") as node, controller.api() as api:
        wish = {"query": "node=steered", "settings": {"log.level": "debug"}}
        (wished,) = api.post("/v1/wishes", json=wish).raise_for_status().json()
        assert (wished["node"], wished["is_new"]) == ("steered", True)

        def progress() -> dict[str, Any]:
            asked = {"wishes": [{"node": "steered", "rev": wished["rev"]}]}
            return dict(api.post("/v1/progress", json=asked).raise_for_status().json()[0])

        assert progress()["state"] == "working"
        node.report(wished["rev"], "fetching", progress=0.5)
        until(lambda: progress()["phase"] == "fetching", "progress")
        node.report(wished["rev"])
        until(lambda: progress()["state"] == "done", "end")
        answer = api.post("/v1/nodes/steered/commands", json={"op": "logs", "args": {"lines": 3}}).json()
        assert (answer["outcome"], answer["result"]) == ("done", {"lines": 3})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"nodes": ["api-n"], "query": "online"}, "either nodes or a query"),
        ({"settings": {"log.level": "debug"}}, "either nodes or a query"),
        ({"query": "online", "settings": {"log.levle": "debug"}}, "log.level"),
        ({"query": "online", "settings": {"log.level": 3}}, "log.level"),
    ],
)
def test_a_wish_that_means_nothing_is_refused(controller: ControllerProcess, body: dict[str, Any], words: str) -> None:
    """With what would be accepted."""
    with controller.api() as api:
        answer = api.post("/v1/wishes", json=body)
        assert (answer.status_code, error_of(answer)) == (422, "invalid")
        assert words in answer.json()["error"]["message"]


def test_a_change_is_told_to_who_watches(controller: ControllerProcess) -> None:
    """A node that comes is in the next event."""
    with controller.api() as api, api.stream("GET", "/v1/events") as stream:
        lines = (line.removeprefix("data:") for line in stream.iter_lines() if line.startswith("data:"))
        before = httpx.Response(200, text=next(lines)).json()
        with ScriptedNode(controller, f"watched{before['num_nodes']}"):
            for line in lines:
                if httpx.Response(200, text=line).json()["num_nodes"] > before["num_nodes"]:
                    return
    raise AssertionError("the stream ended")


def test_a_folder_from_before_there_were_operators_gets_a_token_and_a_gateway(tmp_path: Path) -> None:
    """Without either file everything starts, and `--save` makes what is missing."""
    controller = ControllerProcess(tmp_path)
    controller.folder.operator_token.unlink()
    controller.folder.gateway_pem.unlink()
    controller.ready()
    try:
        missing = controller.fleet("operator", "ls")
        assert missing.returncode == 5
        assert "fleet operator create admin --role admin --save" in missing.stderr
        saved = controller.fleet("operator", "create", "admin", "--role", "admin", "--save")
        assert saved.returncode == 0, saved.stderr
        assert oct(controller.folder.operator_token.stat().st_mode & 0o777) == "0o600"
        assert controller.fleet("operator", "ls").returncode == 0
        with ScriptedNode(controller, "old"), controller.api() as api:
            body = {"model": "node:old", "messages": [{"role": "user", "content": "hello"}]}
            assert api.post("/v1/chat/completions", json=body).status_code == 200
    finally:
        controller.stop()
