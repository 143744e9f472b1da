"""An HTTP proxy through which hosts, which have a network of their own, reach the package mirror of this machine."""

import subprocess
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORTION = 1 << 20
PASSED_ON = ("Content-Length", "Content-Type", "Last-Modified", "ETag")


def mirror_url() -> str:
    """Where apt of this machine gets bookworm from."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return next(line.split()[0] for line in done.stdout.splitlines() if line.endswith(" bookworm"))


class Proxy:
    """Runs until it is closed."""

    def __init__(self, address: str) -> None:
        """Raises: OSError: nobody can listen there."""
        self._server = ThreadingHTTPServer((address, 0), _Forwarder)
        self.url = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Forwarder(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the library calls it so
        try:
            # Only ever what apt asks for: a mirror of packages that apt checks by their signatures.
            with urllib.request.urlopen(self.path, timeout=60) as found:  # noqa: S310
                self.send_response(found.status)
                for name in PASSED_ON:
                    if value := found.headers.get(name):
                        self.send_header(name, value)
                self.end_headers()
                while portion := found.read(PORTION):
                    self.wfile.write(portion)
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # the library's name
        """Says nothing."""
