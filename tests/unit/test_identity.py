"""The files that enrolment leaves on a device."""

from pathlib import Path

import msgspec
import pytest

from agent.errors import EnrolmentError
from agent.identity import RECORD_FILE, Identity, load_identity, store_identity

LIFE_MS = 1000
IDENTITY = Identity(
    id="n1", role="node", fleet="home", url="https://ctl", broker_host="ctl", broker_port=8883, issued_ms=0,
    expires_ms=LIFE_MS,
)  # fmt: skip


def test_what_is_stored_is_loaded_and_private(tmp_path: Path) -> None:
    """Also over an older identity; no file can be read by another user, and nothing else is left."""
    folder = tmp_path / "state" / "identity"
    assert load_identity(folder) is None
    store_identity(folder, IDENTITY, b"one", b"root")
    newer = msgspec.structs.replace(IDENTITY, issued_ms=5)
    store_identity(folder, newer, b"two")
    assert load_identity(folder) == newer
    files = {file.name: file for file in folder.iterdir()}
    assert sorted(files) == ["ca.pem", "identity.json", "identity.pem"]
    assert (files["ca.pem"].read_bytes(), files["identity.pem"].read_bytes()) == (b"root", b"two")
    assert {file.stat().st_mode & 0o777 for file in files.values()} == {0o600}


def test_a_damaged_record_is_one_sentence(tmp_path: Path) -> None:
    """It says what to do."""
    (tmp_path / RECORD_FILE).write_text("{")
    with pytest.raises(EnrolmentError, match="enrol again"):
        load_identity(tmp_path)


def test_devices_renew_around_half_life(tmp_path: Path) -> None:
    """Spread over a fifth of it, so that a fleet enrolled on one day does not renew on one day."""
    times = [IDENTITY.renewal_ms(number / 10) for number in range(11)]
    assert times[0] == pytest.approx(0.4 * LIFE_MS)
    assert times[5] == pytest.approx(0.5 * LIFE_MS)
    assert times[10] == pytest.approx(0.6 * LIFE_MS)
