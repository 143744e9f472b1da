"""Lists of words and templates, each in three parts: what is trained on, and two that training never sees.

`dev` is what choices between trainings are made by, so its mistakes may be read. `held_out` is for the test alone:
somebody who had seen no other list wrote it, and nobody looks at its mistakes.
"""

import random
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

Split = Literal["train", "dev", "held_out"]
FOLDER = Path(__file__).parent
# How often a word of an example that is not trained on is one that training never saw.
NEW_SHARE = 0.5
_SYLLABLES = (
    "al", "ba", "cor", "den", "fa", "gul", "hem", "ki", "lor", "mo", "nar", "pel", "ri", "ser",
    "sta", "ter", "ton", "tun", "vi", "vo", "wis",
)  # fmt: skip


class Words(msgspec.Struct, frozen=True):
    """One list."""

    train: list[str]
    dev: list[str]
    held_out: list[str]

    def new_in(self, split: Split) -> list[str]:
        """The words of a split that training never sees."""
        return {"train": [], "dev": self.dev, "held_out": self.held_out}[split]


class Picker:
    """Draws from lists for one example, and notes what it drew that training never sees."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.new: list[str] = []
        self.split = split

    def draw(self, words: Words) -> str:
        """One of the list's words: of those to train with, and in the other splits half of the time a new one."""
        new = words.new_in(self.split)
        if new and self.rng.random() < NEW_SHARE:
            word = self.rng.choice(new)
            self.new.append(word)
            return word
        return self.rng.choice(words.train)

    def invented(self) -> str:
        """A name that nothing has."""
        return "".join(self.rng.choices(_SYLLABLES, k=self.rng.randint(2, 4)))


def read_lists(name: str, kind: Any) -> Any:
    """The lists of a file beside this one, as a `kind`."""
    return msgspec.convert(tomllib.loads((FOLDER / name).read_text("utf-8")), kind)
