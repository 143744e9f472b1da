"""What a process loses when it isolates itself, as root and as anybody; what of the environment is passed on."""

import json
import os
import socket
import subprocess
import sys

import pytest

from agent.engine.address_space import GIB, address_space_bytes
from agent.engine.isolation import MAX_FILES, OOM_SCORE_STEP, environment

# Isolates itself as the user whose number is given, and looks around.
LOOK = """
import encodings.idna, json, os, resource, socket, sys  # all now: later it may not read where Python is
from pathlib import Path
from agent.engine.isolation import isolate, limit_address_space
user, port = int(sys.argv[1]), int(sys.argv[2])
before = os.readlink("/proc/self/ns/net")
score = int(Path("/proc/self/oom_score_adj").read_text())
if user != os.getuid():
    os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
    import ctypes
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as a process that was this user's from the start: dumpable
isolated = isolate()
limit_address_space(2**30)
try:
    socket.create_connection(("127.0.0.1", port), 5)
    reached = True
except OSError:
    reached = False
try:
    bytearray(2**30)
    roomy = True
except MemoryError:
    roomy = False
status = dict(line.split(":\\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "isolated": isolated, "reached": reached, "roomy": roomy, "core": resource.getrlimit(resource.RLIMIT_CORE),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE), "new_rights": status["NoNewPrivs"].strip() == "0",
    "rights": int(status["CapEff"], 16), "score": int(Path("/proc/self/oom_score_adj").read_text()) - score,
}))
"""


@pytest.mark.parametrize("user", [os.getuid(), 65534])
def test_isolated_process_has_no_network_no_core_file_and_no_new_rights(user: int) -> None:
    """It says whether the system let it go; whatever it says of the network is true."""
    if user != os.getuid() and os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(user), str(port)],
            capture_output=True, text=True, timeout=60, check=False, env=environment(os.environ),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reached"] is not found["isolated"]
    assert not found["roomy"]
    assert not found["new_rights"]
    assert found["core"] == [0, 0]
    assert max(found["files"]) <= MAX_FILES
    assert 0 < found["score"] <= OOM_SCORE_STEP
    if user != 0:
        assert found["rights"] == 0


def test_the_engine_gets_no_secret_from_the_environment() -> None:
    """Only what is known to be needed, whatever the daemon was given."""
    given = {
        "SHOAL_BROKER_USERNAME": "n1", "SHOAL_BROKER_PASSWORD_FILE": "/secret", "AWS_SECRET_ACCESS_KEY": "x",
        "OPENAI_API_KEY": "x", "SSH_AUTH_SOCK": "/x", "DBUS_SESSION_BUS_ADDRESS": "x", "NOTIFY_SOCKET": "/x",
        "http_proxy": "http://user:password@host", "PATH": "/bin", "LD_LIBRARY_PATH": "/lib", "OMP_NUM_THREADS": "2",
        "GOMP_SPINCOUNT": "5", "PYTHONPATH": "/x", "LC_ALL": "C",
    }  # fmt: skip
    passed = environment(given)
    kept = {"PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "GOMP_SPINCOUNT", "PYTHONPATH", "LC_ALL"}
    assert passed.keys() & given.keys() == kept
    assert passed["GOMP_SPINCOUNT"] == "5"
    assert environment({})["GOMP_SPINCOUNT"] == "1000"


def test_the_limit_grows_with_all_that_takes_room() -> None:
    """File, context and threads; a small model alone gets gigabytes."""
    small = address_space_bytes(weights_bytes=10**8, kv_bytes=512 * 10**5, threads=1)
    assert small > 3 * GIB
    assert address_space_bytes(weights_bytes=2 * 10**8, kv_bytes=512 * 10**5, threads=1) > small
    assert address_space_bytes(weights_bytes=10**8, kv_bytes=8192 * 10**5, threads=1) > small
    assert address_space_bytes(weights_bytes=10**8, kv_bytes=512 * 10**5, threads=64) > small + 4 * GIB
