"""The device's checks: each fault is found, named, and comes with a next step."""

import json
import tarfile
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.checkup import CHECKS, Patient, examine
from agent.cli import app
from agent.config import Broker, Config, Node
from agent.identity import Identity, identity_folder, store_identity
from agent.store.database import FILE
from tests.fakes.mosquitto import free_port
from tests.fakes.tiny_model import write_tiny_model


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    """An enrolled device with a model, whose agent does not run."""
    state = tmp_path / "state"
    (state / "models").mkdir(parents=True)
    state.chmod(0o700)
    write_tiny_model(state / "models/tiny.gguf")
    now_ms = time.time_ns() // 1_000_000
    identity = Identity(
        id="n1", role="node", fleet="home", url="https://localhost:8443", broker_host="localhost", broker_port=8883,
        issued_ms=now_ms - 1000, expires_ms=now_ms + 7 * 86_400_000,
    )  # fmt: skip
    store_identity(identity_folder(state), identity, b"key", b"root")
    return Patient(Config(node=Node(id="n1", state_dir=str(state)), broker=Broker(host="localhost", port=free_port())))


def faults(patient: Patient) -> dict[str, tuple[str, str]]:
    """What is wrong, by check: what was found, and what to do next."""
    return {each["check"]: (each["found"], each["next"]) for each in examine(patient) if not each["ok"]}


def test_twenty_things_are_looked_at_and_all_faults_have_a_next_step(patient: Patient) -> None:
    """Of a device that is whole, all that is wrong is that nothing runs."""
    assert len(CHECKS) == 20
    found = faults(patient)
    assert set(found) == {"broker", "agent", "connection", "engine", "steering"}
    assert all(step for _, step in found.values())


def test_faults_are_named(patient: Patient) -> None:
    """An open key, a wrong name, an expired certificate, no model, a damaged journal, a folder that all may read."""
    state = patient.state_dir
    folder = identity_folder(state)
    (folder / "identity.pem").chmod(0o644)
    record = json.loads((folder / "identity.json").read_text())
    (folder / "identity.json").write_text(json.dumps({**record, "id": "n2", "expires_ms": 1}))
    (state / "models/tiny.gguf").unlink()
    (state / FILE).write_bytes(b"SQLite format 3\x00" + bytes(2000))
    state.chmod(0o755)
    found = faults(patient)
    assert {"key", "identity", "certificate", "model", "database", "privacy"} <= set(found)
    assert "chmod 600" in found["key"][1]
    assert "enrolled as n2" in found["identity"][0]


def test_a_bundle_holds_no_secret(patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor the name at the broker; who it is for alone can read it, and nothing is overwritten."""
    config = f'[node]\nid = "n1"\nstate_dir = "{patient.state_dir}"\n[broker]\nusername = "canary-user"\nport = 1\n'
    (tmp_path / "agent.toml").write_text(config)
    (identity_folder(patient.state_dir) / "identity.pem").write_text("canary-key")
    monkeypatch.setenv("SHOAL_CONFIG", str(tmp_path / "agent.toml"))
    target = tmp_path / "bundle.tar.gz"
    runner = CliRunner()
    assert runner.invoke(app, ["support-bundle", str(target)]).exit_code == 0
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as archive:
        texts = [archive.extractfile(name) for name in archive.getnames()]
        content = b"".join(text.read() for text in texts if text)
    assert b"canary" not in content
    assert b'"checks.json"' not in content
    assert b"identity.pem" in content  # named, not read
    assert runner.invoke(app, ["support-bundle", str(target)]).exit_code != 0
