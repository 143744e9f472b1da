"""The folder of releases over HTTP: the controller's way and nginx's are the same to a node."""

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from uvicorn import Config

from contract.release import object_path
from contract.segments import sha256_of
from fleet.releases.objects import Objects
from fleet.releases.public_file import write_public
from fleet.web.release_files import release_files
from fleet.web.server import WebServer
from tests.fakes.mosquitto import free_port
from tests.fakes.nginx import Nginx
from tests.fakes.noise import noise
from tests.fakes.waiting import until

CONTENT = noise(3_000_000)
PATH = f"/releases/{object_path(sha256_of(CONTENT))}"
Answer = tuple[int, dict[str, str], bytes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an object, and metadata."""
    made = tmp_path_factory.mktemp("served") / "releases"
    Objects(made).put(sha256_of(CONTENT), CONTENT)
    for name in ("timestamp.json", "root.json", "1.root.json"):
        write_public(made / "metadata" / name, b"{}", made)
    write_public(made / "targets/tiny" / f"{'a' * 64}.1.0+q4.json", b"[]", made)
    (made / "objects" / ".new-x").write_bytes(b"half")
    (made.parent / "secret").write_bytes(b"secret")
    (made / "link").symlink_to(made.parent / "secret")
    return made


@pytest.fixture(scope="module", params=["controller", "nginx"])
def port(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where it is served."""
    if request.param == "nginx":
        nginx = Nginx(tmp_path_factory.mktemp("nginx"), folder)
        yield nginx.port
        nginx.stop()
        return
    port = free_port()
    app = Starlette(routes=[release_files(folder)])
    server = WebServer(Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "server")
    yield port
    server.should_exit = True
    thread.join(20)


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    """What is answered to a request whose path goes as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def test_a_file_comes_whole_and_may_be_kept_for_ever(port: int) -> None:
    """With its length and a tag; what is replaced must be asked for again."""
    status, headers, body = ask(port, PATH)
    assert (status, body) == (200, CONTENT)
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    assert headers["accept-ranges"] == "bytes"
    assert headers["etag"].startswith('"')
    for name, cached in (("timestamp", "no-cache"), ("root", "no-cache"), ("1.root", headers["cache-control"])):
        assert ask(port, f"/releases/metadata/{name}.json")[1]["cache-control"] == cached
    assert ask(port, f"/releases/targets/tiny/{'a' * 64}.1.0+q4.json")[2] == b"[]"


def test_head_says_the_same_without_the_bytes(port: int) -> None:
    """So that a client knows what it would get."""
    status, headers, body = ask(port, PATH, "HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(CONTENT)), b"")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-2999998", 1_000_000, 2_999_999),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
        ("bytes=2999990-9999999", 2_999_990, 3_000_000),
    ],
)
def test_a_part_comes_alone(port: int, asked: str, start: int, end: int) -> None:
    """Also one of megabytes; RFC 9110, 14."""
    status, headers, body = ask(port, PATH, Range=asked)
    assert (status, body) == (206, CONTENT[start:end])
    assert headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert headers["content-length"] == str(end - start)


def test_several_parts_come_in_one_answer(port: int) -> None:
    """As multipart/byteranges."""
    status, headers, body = ask(port, PATH, Range="bytes=0-9,1000000-1000009")
    assert status == 206
    assert headers["content-type"].startswith("multipart/byteranges")
    assert CONTENT[:10] in body
    assert CONTENT[1_000_000:1_000_010] in body


def test_a_part_beyond_the_end_is_refused(port: int) -> None:
    """With the length, so that a client can mend its ways."""
    status, headers, _ = ask(port, PATH, Range="bytes=3000000-")
    assert (status, headers["content-range"]) == (416, "bytes */3000000")


@pytest.mark.parametrize("asked", ["lines=1-2", "bytes", "bytes=a-b"])
def test_what_is_no_range_is_ignored(port: int, asked: str) -> None:
    """The whole file comes, or a refusal, and never a wrong part."""
    status, _, body = ask(port, PATH, Range=asked)
    assert (status, body) == (200, CONTENT) or status == 416


def test_a_part_of_another_file_is_never_mixed_in(port: int) -> None:
    """If-Range: the part when the tag is the file's, else all of it."""
    tag = ask(port, PATH, "HEAD")[1]["etag"]
    assert ask(port, PATH, Range="bytes=0-9", If_Range=tag)[0] == 206
    status, _, body = ask(port, PATH, Range="bytes=0-9", If_Range='"other"')
    assert (status, body) == (200, CONTENT)
    assert ask(port, PATH, If_None_Match=tag)[0] == 304


@pytest.mark.parametrize(
    "path",
    [
        "/releases/../secret", "/releases/%2e%2e/secret", "/releases/objects/..%2f..%2f..%2fsecret",
        "/releases/..\\secret", "/releases//etc/passwd", "/releases/link", "/releases/",
        "/releases/objects", "/releases/objects/",
        "/releases/objects/.new-x", "/releases/metadata/2.root.json", "/releases/metadata/%00",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(port: int, path: str) -> None:
    """Neither what lies beside the folder, nor a list of what is in it, nor what is being written."""
    status, _, body = ask(port, path)
    assert status in (301, 400, 403, 404)  # nginx sends from a folder to the folder with a slash
    assert b"secret" not in body or status == 404
    assert b"half" not in body


def test_nothing_can_be_written(port: int) -> None:
    """It is read and no more."""
    for method in ("PUT", "POST", "DELETE"):
        assert ask(port, PATH, method, Content_Length="0")[0] == 405
