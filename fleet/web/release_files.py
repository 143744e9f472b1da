"""The folder of releases over HTTP: plain files, with ranges, for anybody. What is in it is signed or named by digest.

The same folder may be served by any other web server; `docs/releases.md` says how.
"""

import os
import re
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import NotModifiedResponse, PathLike, StaticFiles
from starlette.types import Receive, Scope, Send

URL_PATH = "/releases"
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
# These are replaced; every other file has a version or a digest in its name.
CHANGING = ("metadata/timestamp.json", "metadata/root.json")
PIECE_BYTES = 256 * 1024  # read in one go by a thread, and in memory for each download that is under way
_RANGES = re.compile(r"bytes=[ \t]*(\d+-\d*|-\d+)([ \t]*,[ \t]*(\d+-\d*|-\d+))*[ \t]*\Z")


def release_files(folder: Path) -> Mount:
    """Serves a folder of releases."""
    return Mount(URL_PATH, _ReleaseFiles(directory=folder, check_dir=False))


class _File(FileResponse):
    chunk_size = PIECE_BYTES


class _ReleaseFiles(StaticFiles):
    """Whole files and parts of them, below the folder alone, and no list of what there is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by Starlette."""
        if not _RANGES.match(Headers(scope=scope).get("range", "")):  # RFC 9110, 14.2: what is no range is ignored
            scope = {**scope, "headers": [one for one in scope["headers"] if one[0] != b"range"]}
        await super().__call__(scope, receive, send)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Called by Starlette. A file that is being written has a name that begins with a dot."""
        if any(part.startswith(".") for part in Path(path).parts):
            return "", None
        return super().lookup_path(path)

    def file_response(
        self, full_path: PathLike, stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        """Called by Starlette."""
        path = Path(full_path).relative_to(Path(str(self.directory)).resolve())
        changes = str(path) in CHANGING
        response = _File(full_path, status_code, media_type=_media_type(path), stat_result=stat_result)
        response.headers["cache-control"] = ASK_AGAIN if changes else FOREVER
        if not changes:
            response.headers["etag"] = f'"{path.name}"'
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(MutableHeaders(raw=response.raw_headers))
        return response


def _media_type(path: Path) -> str:
    return "application/json" if path.suffix == ".json" else "application/octet-stream"
