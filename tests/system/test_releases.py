"""Releases as an operator and a node meet them: commands, the HTTP API, the files, keys that are away, kills."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from contract.enrolment import ENROL_PATH
from contract.release import decode_release, object_path
from tests.fakes.adapters import make_adapter
from tests.fakes.controller import ControllerProcess
from tests.fakes.signing_requests import request
from tests.fakes.tiny_model import write_tiny_model
from tests.fakes.tuf_node import TufNode

GOLDEN = """
[[prompt]]
user = "What is 2 + 2?"
regex = "^[^0-9]*4\\\\.?$"
contains = "4"

[[prompt]]
messages = [{role = "user", content = "hello"}]
max_tokens = 5
similar = "Hello there."
cosine = 0.5
"""


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControllerProcess]:
    """A controller with its broker."""
    running = ControllerProcess(tmp_path_factory.mktemp("releases")).ready()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture
def node(controller: ControllerProcess, tmp_path: Path) -> TufNode:
    """A node that has enrolled, with the root that it got, reading the folder as it is served."""
    name = f"n{tmp_path.name[-1]}"
    body = {"token": controller.token(name), "csr": request(name)}
    with httpx.Client(base_url=controller.folder.url, verify=controller.tls()) as api:
        issued = api.post(ENROL_PATH, json=body).raise_for_status().json()
    return TufNode(tmp_path / "node", controller.folder.releases, issued["releases_root"].encode())


def run(controller: ControllerProcess, *words: str) -> str:
    """What a command prints, which must succeed."""
    done = controller.fleet(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_model_is_published_with_what_it_must_show(
    controller: ControllerProcess, node: TufNode, tiny: Path, tmp_path: Path
) -> None:
    """By one command; the node finds the manifest by its root, and every object by its digest, over HTTP."""
    (tmp_path / "golden.toml").write_text(GOLDEN)
    (tmp_path / "text.txt").write_text("Once upon a time")
    options = [
        "--license", "MIT", "--golden", str(tmp_path / "golden.toml"), "--sampling", "temperature=0.2",
        "--perplexity-text", str(tmp_path / "text.txt"), "--perplexity-ceiling", "30", "--min-speed", "0.7",
    ]  # fmt: skip
    done = msgspec.json.decode(run(controller, "model", "publish", "tiny", "1", str(tiny), *options, "--json"))
    assert (done["release"], done["is_new"], done["missing"]) == ("tiny@1", True, 0)
    assert "There already" in run(controller, "model", "publish", "tiny", "1", str(tiny), *options)
    assert controller.fleet("model", "publish", "tiny", "1", str(tiny), "--license", "MIT").returncode == 1
    assert "tiny@1" in run(controller, "release", "ls")
    release = decode_release(node.manifest("tiny/1.json") or b"")
    assert [len(one.expect) for one in release.golden] == [2, 1]
    assert (release.min_speed, release.sampling.temperature) == (0.7, 0.2)
    with httpx.Client(base_url=controller.folder.url, verify=controller.tls()) as api:
        for segment in release.segments:
            answer = api.get(f"/releases/{object_path(segment.sources[0].sha256)}")
            assert hashlib.sha256(answer.content).hexdigest() == segment.sources[0].sha256


def test_variants_are_made_measured_and_published(controller: ControllerProcess, tiny: Path, tmp_path: Path) -> None:
    """By llama.cpp, in a process of its own; the table has each adapter that says how it is judged."""
    (tmp_path / "golden.toml").write_text('[[prompt]]\nuser = "hello"\nmax_tokens = 4\nregex = "^.{0,99}$"\n')
    adapter = make_adapter(tmp_path / "a.gguf", tiny)
    base, golden = hashlib.sha256(tiny.read_bytes()).hexdigest(), str(tmp_path / "golden.toml")
    words = ["--license", "MIT", "--base", base, "--golden", golden]
    run(controller, "adapter", "publish", "judged", "1", str(adapter), *words)
    said = run(controller, "model", "publish", "many", "1", str(tiny), "--license", "MIT", "--quantize", "Q8_0")
    titles, *rows = said.splitlines()[-3:]
    assert titles.split()[-2:] == ["golden", "judged@1"]
    assert [row.split()[0] for row in rows] == ["many@1", "many@1+q8_0"]
    assert float(rows[1].split()[1]) < 0.6 * float(rows[0].split()[1])
    with controller.api() as api:
        listed = {one["release"]: one for one in api.get("/v1/releases").json()}
        file = api.get("/v1/releases/many/file", params={"version": "1"}).content
    assert file == tiny.read_bytes()
    assert listed["many@1+q8_0"]["bytes"] < listed["many@1"]["bytes"]
    refused = controller.fleet("model", "publish", "m", "1", str(tiny), "--license", "MIT", "--quantize", "Q9")
    assert "cannot make a variant 'Q9'" in refused.stderr


def test_only_what_is_approved_can_be_wished(controller: ControllerProcess, tiny: Path) -> None:
    """409 for what is not published, also once it is yanked."""
    run(controller, "model", "publish", "wish", "1", str(tiny), "--license", "MIT")
    controller.token("w1")
    with controller.api() as api:

        def wish(model: str) -> int:
            return api.post("/v1/wishes", json={"nodes": ["w1"], "model": model}).status_code

        api.post(ENROL_PATH, json={"token": controller.token("w1"), "csr": request("w1")}).raise_for_status()
        assert (wish("wish@1"), wish("wish@2"), wish("wish")) == (200, 409, 200)
        run(controller, "release", "yank", "wish@1", "--reason", "it babbles")
        assert wish("wish@1") == 409
    assert "it babbles" in run(controller, "release", "ls")


def test_a_file_that_is_cut_off_leaves_nothing(controller: ControllerProcess, tiny: Path) -> None:
    """Neither when the connection ends, nor when the controller does; and then it can be sent again."""
    content = tiny.read_bytes() + b"x"  # no other test sends this
    announced = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    def pieces(number: signal.Signals | None) -> Iterator[bytes]:
        yield content[:1000]
        if number:
            controller.stop(number)
        raise ConnectionError

    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(content))}
    for number in (None, signal.SIGKILL):
        with controller.api() as api:
            url = f"/v1/uploads/{api.post('/v1/uploads', json=announced).json()['id']}"
            with pytest.raises((ConnectionError, httpx.TransportError)):
                api.put(url, content=pieces(number), headers=headers)
    controller.ready()
    assert list((controller.path / "uploads").iterdir()) == []
    with controller.api() as api:
        url = f"/v1/uploads/{api.post('/v1/uploads', json=announced).json()['id']}"
        assert api.put(url, content=content, headers=headers).status_code == 200


def test_keys_sign_where_no_controller_is(
    controller: ControllerProcess, node: TufNode, tiny: Path, tmp_path: Path
) -> None:
    """Releases are approved elsewhere, and a key is replaced by two keys of the root that are away."""
    safe = tmp_path / "safe"
    safe.mkdir()
    keys: dict[str, list[Path]] = {
        role: [file.rename(safe / file.name) for file in sorted((controller.path / "keys").glob(f"{role}-*.key"))]
        for role in ("root", "targets")
    }
    said = run(controller, "model", "publish", "away", "1", str(tiny), "--license", "MIT")
    assert "need 1 more signature" in said
    assert node.manifest("away/1.json") is None

    def sign(role: str, *with_keys: Path) -> str:
        file = str(tmp_path / f"{role}.json")
        run(controller, "release", "pending", role, "-o", file)
        words = [word for key in with_keys for word in ("--key", str(key))]
        shown = subprocess.run(
            [sys.executable, "-m", "fleet", "release", "sign", file, *words],
            capture_output=True, text=True, check=True, timeout=60, env={"SHOAL_FLEET_DIR": "/nowhere"},
        )  # fmt: skip
        run(controller, "release", "submit", file)
        return shown.stdout

    assert "away@1" in sign("targets", *keys["targets"])
    assert node.manifest("away/1.json") is not None

    fresh = run(controller, "release", "keys", "new", "targets", str(safe))
    (tmp_path / "new.pub").write_text(fresh)
    (new,) = set(safe.glob("targets-*.key")) - set(keys["targets"])
    run(controller, "release", "keys", "rotate", "targets", "--new", str(tmp_path / "new.pub"))
    assert node.refresh()["root"] == 1
    assert "targets: 1 of" in sign("root", keys["root"][0], keys["root"][2])
    sign("targets", new)  # what was approved with the old one
    assert node.refresh()["root"] == 2
    assert node.manifest("away/1.json") is not None
    for role in ("root", "targets"):
        for file in safe.glob(f"{role}-*.key"):
            file.rename(controller.path / "keys" / file.name)


def test_a_bundle_carries_releases_to_another_fleet(
    controller: ControllerProcess, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Believed when those have signed whom the root of the exporting fleet names, and no byte of it is changed."""
    place = tmp_path_factory.mktemp("other")
    run(controller, "model", "publish", "carried", "1", str(tiny), "--license", "MIT")
    file, root = place / "b.tar", controller.folder.releases / "metadata/1.root.json"
    run(controller, "bundle", "export", "carried@1", "-o", str(file))
    manifest = next((controller.folder.releases / "targets/carried").iterdir()).read_bytes()
    digest = decode_release(manifest).segments[0].sources[0].sha256
    raw = bytearray(file.read_bytes())
    raw[raw.index((controller.folder.releases / object_path(digest)).read_bytes())] ^= 1
    (place / "bad.tar").write_bytes(raw)
    other = ControllerProcess(place).ready()
    try:
        assert "cannot trust the bundle" in other.fleet("bundle", "import", str(file)).stderr
        refused = other.fleet("bundle", "import", str(place / "bad.tar"), "--root", str(root))
        assert f"its object {digest} is missing or damaged" in refused.stderr
        assert "carried" not in run(other, "release", "ls")
        assert "New: carried@1" in run(other, "bundle", "import", str(file), "--root", str(root))
        assert "There already: carried@1" in run(other, "bundle", "import", str(file), "--root", str(root))
        theirs = (other.folder.releases / "metadata/1.root.json").read_bytes()
        assert TufNode(place / "node", other.folder.releases, theirs).manifest("carried/1.json") == manifest
    finally:
        other.stop()
