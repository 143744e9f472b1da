"""A real nginx that serves a folder as docs/releases.md says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.fakes.controller import listens
from tests.fakes.mosquitto import free_port
from tests.fakes.waiting import until

PAGE = Path("docs/releases.md")


class Nginx:
    """The server, in the foreground, as the user who runs the tests."""

    def __init__(self, place: Path, folder: Path) -> None:
        self.port = free_port()
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise RuntimeError("cannot find nginx; run `python3 bootstrap.py programs`")
        found = re.search(r"```nginx\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        assert found
        site = found[1].replace("listen 80;", f"listen 127.0.0.1:{self.port};").replace("/srv/shoal", str(folder))
        config = place / "nginx.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"{name}_temp_path {place}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            f"{user}\ndaemon off;\nmaster_process off;\nerror_log stderr;\npid {place}/nginx.pid;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}{site}\n}}\n"
        )
        self._process = subprocess.Popen([program, "-p", str(place), "-c", str(config), "-e", "stderr"])
        until(lambda: listens(self.port), "nginx")

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(20)
