"""The gate at work on a node, with the engines of a tiny model."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.catalog import Catalog
from agent.config import parse_config
from agent.store.database import Database
from agent.store.facts import Facts
from agent.update import gating
from agent.update.gating import Gating
from agent.update.trial import show
from tests.fakes.releases import release_of
from tests.fakes.tiny_model import write_tiny_model

CONFIG = """
[node]
state_dir = "{folder}/state"
[model]
file = "{folder}/model.gguf"
context_tokens = 256
"""


def test_what_would_be_the_same_again_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves says the same each time, only how fast changes with the other work on the node; and what an engine
    refuses to do it refuses for ever.
    """
    write_tiny_model(tmp_path / "model.gguf")
    candidate = write_tiny_model(tmp_path / "candidate.gguf", seed=2)
    asked: list[str] = []

    async def noted(subject: Any, *others: Any) -> Any:
        asked.append(Path(subject.plan.file).name)
        return await show(subject, *others)

    monkeypatch.setattr(gating, "show", noted)
    config = parse_config(CONFIG.format(folder=tmp_path), "a test", {})
    models = Catalog(config, Facts(Database(config.state_dir)))
    judge = Gating(config, models)
    release = release_of(min_speed=0.01)

    forgetful = release_of(chat_template="{% for message in messages %}{{ message.role }}\n{% endfor %}")

    async def told() -> Any:
        await models.look()
        return [(await judge.judge(one, candidate))[1] for one in (release, release, forgetful)]

    first, again, refused = asyncio.run(told())
    assert asked == ["model.gguf", *["candidate.gguf"] * 3]
    assert refused["reasons"] == ["cannot score a text: it leaves a turn out"]
    assert first["baseline"]["text_bits"] == again["baseline"]["text_bits"]
    assert first["baseline"]["tok_s"] != again["baseline"]["tok_s"]
