"""The directions in which the packages may depend on each other, and what the daemon must not carry."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = sorted(p for folder in ("contract", "agent", "fleet") for p in Path(folder).rglob("*.py"))
FORBIDDEN_IN_DAEMON = {
    "llama_cpp", "numpy", "typer", "rich", "pydantic", "httpx", "sqlalchemy", "jinja2", "jsonschema", "fleet",
    "gguf", "cryptography",
}  # fmt: skip
VAGUE = {"helper", "helpers", "util", "utils", "manager", "handler", "common", "base", "core", "service", "misc"}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def packages(path: Path) -> set[str]:
    """Top-level names that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_packages_depend_in_one_direction(path: Path) -> None:
    """`agent` and `fleet` use `contract`, which uses neither, and never each other."""
    allowed = {"contract": {"contract"}, "agent": {"agent", "contract"}, "fleet": {"fleet", "contract"}}[path.parts[0]]
    assert packages(path) & {"contract", "agent", "fleet", "tests", "bench", "training"} <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_llama_and_paho_stay_in_their_rooms(path: Path) -> None:
    """Only the engine knows llama.cpp, only the two links know paho."""
    used = packages(path)
    assert "llama_cpp" not in used or path.is_relative_to("agent/engine")
    assert "paho" not in used or path in (Path("agent/connection.py"), Path("fleet/link.py"))


def test_only_the_training_loop_needs_pytorch() -> None:
    """Data, evaluation and cards work without the extra `train`, so tests and benchmarks do."""
    heavy = {"torch", "transformers", "peft"}
    sources = [*SOURCES, *Path("bench").glob("*.py"), *Path("training").glob("*.py")]
    assert [path for path in sources if packages(path) & heavy] == [Path("training/loop.py")]


@pytest.mark.parametrize("path", sorted(Path("contract").glob("*.py")), ids=str)
def test_the_contract_does_no_io(path: Path) -> None:
    """Nothing in it can open, connect, look at a clock, or start anything."""
    assert not packages(path) & {
        "os",
        "io",
        "socket",
        "time",
        "datetime",
        "pathlib",
        "subprocess",
        "asyncio",
        "threading",
    }
    assert "open(" not in path.read_text("utf-8")


def test_inside_the_agent_nothing_looks_up() -> None:
    """Store, engine and what is below do not know the daemon, the intake or the commands."""
    above = {"agent.daemon", "agent.intake", "agent.cli", "agent.commands", "agent.link", "agent.local"}
    for path in [*Path("agent/store").glob("*.py"), *Path("agent/engine").glob("*.py")]:
        assert not imports(path) & above, path
    for name in ("config", "errors", "logs"):
        assert not imports(Path(f"agent/{name}.py")) & {*above, "agent.store", "agent.engine"}, name


def test_looking_at_weights_needs_nothing_of_the_agent() -> None:
    """Both the daemon and the engine look at files, so what does it knows neither, nor anything but errors."""
    for path in Path("agent/weights").glob("*.py"):
        known = {name for name in imports(path) if name.startswith(("agent.", "contract."))}
        assert all(name.startswith(("agent.weights", "agent.errors")) for name in known), path


def test_names_say_what_is_inside() -> None:
    """No file is called after nothing in particular."""
    assert [p for p in SOURCES if p.stem in VAGUE] == []


def test_every_test_says_what_behaviour_it_holds() -> None:
    """Each test has a docstring."""
    for path in Path("tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def test_the_daemon_loads_no_heavy_library() -> None:
    """A process that runs `python -m agent` has none of the command line's, the engine's or the controller's."""
    look = (
        "import json, sys, runpy\n"
        "sys.argv = ['agent', '/nonexistent/agent.toml']\n"
        "try: runpy.run_module('agent', run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "print(json.dumps([code, [name for name, module in sys.modules.items() if module]]))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    code, loaded = json.loads(done.stdout)
    assert code == 2  # it went as far as reading the configuration
    assert "agent.daemon" in loaded
    assert {name.partition(".")[0] for name in loaded} & FORBIDDEN_IN_DAEMON == set()
