"""The agent's settings: what is wrong is named with its place, and the environment wins."""

import re
from pathlib import Path

import pytest

from agent.config import SECTIONS, Config, find_config, load_config, parse_config, sample
from agent.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("[brokr]\nhost = 'x'", {}, "a.toml line 1: there is no section [brokr]; did you mean 'broker'?"),
        ("[broker]\n\nprot = 1", {}, "a.toml line 3: [broker] has no key 'prot'; did you mean 'port'?"),
        ("[broker]\nport = 99999", {}, "a.toml line 2: [broker] port = 99999: expected `int` <= 65535"),
        ("[broker]\nport = '1'", {}, "a.toml line 2: [broker] port = '1': expected `int`, got `str`"),
        ("", {"SHOAL_BROKER_PORT": "x"}, "$SHOAL_BROKER_PORT: [broker] port = 'x'"),
        ("broker = 3", {}, "broker is a section"),
        ("[node]\nid = 'Küche'", {}, "an id (1 to 63 of a-z"),
        ("[node]\npools = ['a', 'B']", {}, "[node] pools[1]"),
        ("[privacy]\ndefault = 'all'", {}, "[privacy] default = 'all'"),
        ("x =", {}, "cannot read a.toml as TOML"),
    ],
)
def test_an_error_names_place_value_and_what_would_do(text: str, environ: dict[str, str], said: str) -> None:
    """File, line, section, key and value are in the one sentence of the error."""
    with pytest.raises(ConfigError) as error:
        parse_config(text, "a.toml", environ)
    assert said in str(error.value)
    assert str(error.value).startswith("cannot ")
    assert "\n" not in str(error.value).replace(text, "")


def test_the_environment_overrides_the_file() -> None:
    """SHOAL_<SECTION>_<KEY> wins, also for lists, numbers and booleans."""
    environ = {"SHOAL_BROKER_PORT": "1999", "SHOAL_NODE_POOLS": "a, b", "SHOAL_BROKER_TLS": "true", "SHOAL_OTHER": "x"}
    found = parse_config("[broker]\nport = 1\nhost = 'h'", "a.toml", environ)
    assert (found.broker.port, found.broker.host, found.broker.tls) == (1999, "h", True)
    assert found.node.pools == ["a", "b"]


def test_the_sample_shows_every_key_and_its_default() -> None:
    """With all comment marks taken off, the sample is a configuration, and it is the default one."""
    found = parse_config(re.sub(r"^# (\w+ = )", r"\1", sample(), flags=re.MULTILINE), "sample", {})
    for section, struct in SECTIONS.items():
        for key in struct.__struct_fields__:
            assert f"# {key} = " in sample()
            if (section, key) not in (("node", "id"), ("node", "state_dir")):
                assert getattr(getattr(found, section), key) == getattr(getattr(Config(), section), key)


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Only the default places may be empty; a file that somebody named must exist."""
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_config(str(tmp_path / "none.toml"), {})
    assert find_config(None, {"SHOAL_CONFIG": "x.toml"}) == Path("x.toml")
    assert find_config("y.toml", {"SHOAL_CONFIG": "x.toml"}) == Path("y.toml")
