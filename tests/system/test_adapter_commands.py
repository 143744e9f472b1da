"""`shoal-agent adapters` and `models`: import, look, export, keep and remove, with the agent running or stopped."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.adapter_import import Terms, import_adapter
from agent.errors import AgentError
from agent.models import BaseFile, digest_of
from agent.store.adapters import AdapterStore
from tests.fakes.adapters import adapter_builder, make_adapter
from tests.fakes.gguf_builder import GgufBuilder
from tests.fakes.node import AgentProcess
from tests.fakes.peft_folder import safetensors, write_peft
from tests.fakes.tiny_model import write_tiny_model
from tests.system.conftest import Lab
from tests.system.test_adapters import CUTS, SPOILED
from tests.system.test_commands import one_sentence, printed

ENDLESS_BASE: dict[str, Any] = {"dtype": "f32", "num_spare": 4, "context_tokens": 512, "endless": True}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model that answers without an end."""
    return write_tiny_model(tmp_path / "base.gguf", **ENDLESS_BASE)


@pytest.fixture
def off(lab: Lab, base: Path) -> AgentProcess:
    """An agent that does not run, with a base model."""
    return lab.agent(model=base)


def test_an_adapter_goes_in_and_comes_out_the_same(off: AgentProcess, base: Path, tmp_path: Path) -> None:
    """Import, list, show, pin, export byte for byte, remove; all as words and as JSON."""
    assert printed(off.command("adapters", "ls", "--json")) == []
    assert not (off.state_dir / "adapters.db").exists()  # who only looks makes no files
    one = make_adapter(tmp_path / "Home Lights.gguf", base, layers=[0])
    two = make_adapter(tmp_path / "more.gguf", base)  # begins with the same numbers: tensors that are shared
    done = printed(off.command("adapters", "import", str(one), "--json"))
    assert (done["name"], done["sha256"], done["base_sha256"]) == ("home-lights", digest_of(one), digest_of(base))
    assert off.command("adapters", "import", str(two), "--name", "other").returncode == 0
    listed = printed(off.command("adapters", "ls", "--json"))
    assert [entry["name"] for entry in listed] == ["home-lights", "other"]
    assert all(entry["own_bytes"] + entry["shared_bytes"] == entry["bytes"] for entry in listed)
    assert listed[0]["shared_bytes"] == listed[1]["shared_bytes"] > 0
    sizes = r"own +\d+\.\d kB  shared +\d+\.\d kB  in memory +0\.0 kB  0 uses"
    assert re.search(rf"home-lights@[0-9a-f]{{12}} +{sizes}", off.command("adapters", "ls").stdout)
    shown = printed(off.command("adapters", "show", "other", "--json"))
    assert (shown["bytes"], shown["hits"], shown["pinned"]) == (two.stat().st_size, 0, False)
    assert off.command("adapters", "pin", "other").returncode == 0
    assert "pinned; unpin it first" in one_sentence(off.command("adapters", "rm", "other"), 1)
    copy = tmp_path / "copy.gguf"
    assert printed(off.command("adapters", "export", "home-lights", str(copy), "--json"))["sha256"] == digest_of(one)
    assert copy.read_bytes() == one.read_bytes()
    assert "is there already" in one_sentence(off.command("adapters", "export", "other", str(copy)), 1)
    assert off.command("adapters", "export", "other", str(copy), "--force").returncode == 0
    assert copy.read_bytes() == two.read_bytes()
    assert printed(off.command("adapters", "verify", "--json")) == {"adapters": 2, "problems": []}
    assert off.command("adapters", "unpin", "other").returncode == 0
    assert off.command("adapters", "rm", "other", shown["adapter"].replace("other", "home-lights")).returncode == 1
    assert off.command("adapters", "rm", "home-lights").returncode == 0
    assert printed(off.command("adapters", "gc", "--json"))["freed_bytes"] > 0
    assert printed(off.command("adapters", "ls", "--json")) == []
    assert "cannot find the adapter 'other'" in one_sentence(off.command("adapters", "show", "other"), 1)


def test_what_was_changed_behind_its_back_is_found(off: AgentProcess, base: Path, tmp_path: Path) -> None:
    """`verify` names it and ends with 1; nothing of it is handed out."""
    off.command("adapters", "import", str(make_adapter(tmp_path / "a.gguf", base)))
    file = off.state_dir / "adapters.db"
    raw = bytearray(file.read_bytes())
    tensor = adapter_builder(base).tensors["blk.1.ffn_down.weight.lora_a"][2]
    raw[raw.index(tensor[:64])] ^= 1
    file.write_bytes(raw)
    done = off.command("adapters", "verify", "--json")
    assert done.returncode == 1
    assert any("has changed" in problem for problem in json.loads(done.stdout)["problems"])
    assert "the store is damaged" in one_sentence(off.command("adapters", "export", "a", str(tmp_path / "b")), 1)
    assert not list(tmp_path.glob(".b*"))


def test_a_running_agent_follows(lab: Lab, base: Path, tmp_path: Path) -> None:
    """A PEFT folder is the same adapter as the GGUF file of its numbers; names come and go while requests run."""
    node = lab.agent(model=base)
    client = lab.client(node)
    node.start()
    node.wait_online(client)
    gguf = make_adapter(tmp_path / "gguf.gguf", base, seed=3)
    folder = write_peft(tmp_path / "peft", gguf.read_bytes(), head_length=16)
    for source in (gguf, folder):
        assert node.command("adapters", "import", str(source)).returncode == 0
    node.wait_status(lambda s: len(s["adapters"]) == 2, "two adapters")
    texts = {}
    for name in ("gguf", "peft"):
        client.ask({"id": name, "prompt": "Go on.", "max_tokens": 24, "temperature": 0, "adapter": name})
        final = client.final(name)
        assert (final["status"], final["adapter"].partition("@")[0]) == (200, name)
        texts[name] = final["text"]
    client.ask({"id": "bare", "prompt": "Go on.", "max_tokens": 24, "temperature": 0})
    assert texts["gguf"] == texts["peft"] != client.final("bare")["text"]
    listed = printed(node.command("adapters", "ls", "--json"))
    one = (digest_of(gguf), gguf.stat().st_size)
    assert [(entry["sha256"], entry["resident_bytes"]) for entry in listed] == [one, one]
    again = node.command("adapters", "import", str(folder), "--name", "again", "--json")
    assert printed(again)["sha256"] == listed[1]["sha256"]
    assert node.command("adapters", "rm", "gguf", "peft").returncode == 0
    node.wait_status(lambda s: [a["adapter"].partition("@")[0] for a in s["adapters"]] == ["again"], "one adapter")
    client.ask({"id": "gone", "prompt": "Go on.", "adapter": "gguf"})
    assert client.final("gone")["status"] == 404
    node.stop()
    assert printed(node.command("adapters", "show", "again", "--json"))["hits"] == 2


def with_base(sha256: str) -> Callable[[GgufBuilder], GgufBuilder]:
    """A file that says for which base it was made."""
    return lambda builder: builder.key("shoal.adapter.base_sha256", "string", sha256)


def test_bad_files_are_refused_with_the_reason(off: AgentProcess, base: Path, tmp_path: Path) -> None:
    """Every file that kills llama.cpp, lies or is no file: one sentence, and nothing is stored."""
    other = write_tiny_model(tmp_path / "other.gguf", width=128)
    files = {name: spoil(adapter_builder(base)).build() for name, spoil in SPOILED.items()}
    files |= {name: adapter_builder(base).build()[:cut] for name, cut in CUTS.items()}
    files["wrong-shape"] = adapter_builder(other).build()
    files["wrong-base"] = with_base("c" * 64)(adapter_builder(base)).build()
    files["no-digest"] = with_base("../../etc/passwd")(adapter_builder(base)).build()
    files["model"] = base.read_bytes()
    sources = []
    for name, content in files.items():
        (tmp_path / f"{name}.gguf").write_bytes(content)
        sources.append([str(tmp_path / f"{name}.gguf")])
    folder = write_peft(tmp_path / "lying", adapter_builder(base).build(), head_length=16)
    (folder / "adapter_model.safetensors").write_bytes(safetensors({"x": ("F32", [2**40], bytes(16))}))
    huge = tmp_path / "huge.gguf"
    with huge.open("wb") as file:
        file.write(adapter_builder(base).build())
        file.truncate(1 << 42)
    os.mkfifo(tmp_path / "fifo.gguf")
    good = str(make_adapter(tmp_path / "good.gguf", base))
    sources += [
        [str(folder)], [str(huge)], [str(tmp_path / "fifo.gguf")], [str(tmp_path / "nothing.gguf")], [str(tmp_path)],
        *[[good, "--name", name] for name in ("../up", "a/b", "", "UPPER", "a" * 64, "x\n", ".hidden")],
        [good, "--base", "nobody"], [good, "--base", "d" * 64],
    ]  # fmt: skip
    store = AdapterStore(off.state_dir)
    terms = Terms(bases=[BaseFile("base@1", digest_of(base), str(base), is_default=True)], budget_bytes=1 << 30)
    for source, *options in sources:
        called, base_name = (options[1] if option in options else None for option in ("--name", "--base"))
        with pytest.raises(AgentError, match=r"^cannot ") as refused:
            import_adapter(store, Path(source), terms, name=called, base=base_name)
        assert "Traceback" not in str(refused.value)
        if source.endswith("wrong-base.gguf"):
            assert "c" * 64 in str(refused.value)
            assert digest_of(base) in str(refused.value)
    assert (store.entries(), store.stored_bytes()) == ([], 0)
    store.close()
    for words in (sources[0], [good, "--name", "../up"]):
        one_sentence(off.command("adapters", "import", *words), 1)
    link = tmp_path / "link.gguf"
    link.symlink_to(good)  # the operator's own link is followed
    assert off.command("adapters", "import", str(link)).returncode == 0


def test_an_import_that_does_not_fit_is_507_with_numbers(off: AgentProcess, base: Path, tmp_path: Path) -> None:
    """What is pinned stays, and the message says how much is allowed, needed and pinned."""
    kept = make_adapter(tmp_path / "kept.gguf", base, rank=64, dtype="f32")
    late = make_adapter(tmp_path / "late.gguf", base, rank=64, dtype="f32", seed=2)
    budget = {"SHOAL_STORE_ADAPTERS_MIB": "1"}
    assert off.command("adapters", "import", str(kept), **budget).returncode == 0
    off.command("adapters", "pin", "kept")
    done = off.command("adapters", "import", str(late), "--json", **budget)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert (error["status"], error["code"]) == (507, "no_space")
    assert str(late.stat().st_size) in error["message"]
    assert "1048576 bytes" in error["message"]
    off.command("adapters", "unpin", "kept")
    assert digest_of(kept) in printed(off.command("adapters", "import", str(late), "--json", **budget))["evicted"]
    assert [entry["name"] for entry in printed(off.command("adapters", "ls", "--json"))] == ["late"]


def test_models_are_named_by_their_digest(off: AgentProcess, base: Path, tmp_path: Path) -> None:
    """Copied or linked under name and digest, listed, verified, and not removed while adapters are for them."""
    off.config.write_text(re.sub(r"(?m)^(file|name|version) = .*\n", "", off.config.read_text()))
    done = printed(off.command("models", "import", str(base), "--name", "tiny", "--json"))
    file = Path(done["file"])
    assert file.name == f"tiny.{digest_of(base)}.gguf"
    assert (file.stat().st_mode & 0o222, file.stat().st_nlink) == (0, 1)
    second = write_tiny_model(tmp_path / "second.gguf", seed=2)
    linked = printed(off.command("models", "import", str(second), "--link", "--json"))
    assert Path(linked["file"]).samefile(second)
    listed = {entry["model"].partition("@")[0]: entry for entry in printed(off.command("models", "ls", "--json"))}
    assert set(listed) == {"tiny", "second"}
    adapter = make_adapter(tmp_path / "a.gguf", base)
    assert "--base" in one_sentence(off.command("adapters", "import", str(adapter)), 1)  # of two none is the default
    assert off.command("adapters", "import", str(adapter), "--base", "tiny").returncode == 0
    assert "the adapters a are for it" in one_sentence(off.command("models", "rm", "tiny"), 1)
    assert printed(off.command("models", "verify", "--json")) == {"models": 2, "problems": []}
    raw = bytearray(second.read_bytes())
    raw[-1] ^= 1
    second.write_bytes(raw)  # in place: through the link the model changes too
    done_verify = off.command("models", "verify", "--json")
    assert done_verify.returncode == 1
    (problem,) = json.loads(done_verify.stdout)["problems"]
    assert "it has changed" in problem
    assert off.command("models", "rm", "tiny", "--force").returncode == 0
    assert not file.exists()
    shutil.copy(adapter, tmp_path / "no-model.gguf")
    one_sentence(off.command("models", "import", str(tmp_path / "no-model.gguf")), 1)
    assert off.command("models", "import", str(base), "--name", "../x").returncode == 2
    assert not list((off.state_dir / "models").glob(".import-*"))
