"""Lists of words and templates, each with the part that is trained on and the part that training never sees."""

import random
import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec

Split = Literal["train", "held_out"]
FOLDER = Path(__file__).parent
# How often a word of a held-out example is one that training never saw.
NEW_SHARE = 0.5
_SYLLABLES = (
    "al", "ba", "cor", "den", "fa", "gul", "hem", "ki", "lor", "mo", "nar", "pel", "ri", "ser",
    "sta", "ter", "ton", "tun", "vi", "vo", "wis",
)  # fmt: skip


class Words(msgspec.Struct, frozen=True):
    """One list."""

    train: list[str]
    held_out: list[str]


class Picker:
    """Draws from lists for one example, and notes what it drew that is held out."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.new: list[str] = []
        self.split = split

    def draw(self, words: Words) -> str:
        """One of the list's words: of those to train with, or for the test of all, half of them new."""
        if self.split == "held_out" and words.held_out and self.rng.random() < NEW_SHARE:
            word = self.rng.choice(words.held_out)
            self.new.append(word)
            return word
        return self.rng.choice(words.train)

    def invented(self) -> str:
        """A name that nothing has."""
        return "".join(self.rng.choices(_SYLLABLES, k=self.rng.randint(2, 4)))


def read_lists(name: str, kind: Any) -> Any:
    """The lists of a file beside this one, as a `kind`."""
    return msgspec.convert(tomllib.loads((FOLDER / name).read_text("utf-8")), kind)
