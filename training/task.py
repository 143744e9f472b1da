"""What an adapter is trained to do, and the examples of it."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from training.words import Picker, Split


class Example(NamedTuple):
    """What is said and the right answer. `new` are the words and templates in it that training never sees."""

    text: str
    answer: str
    new: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task. A request for it has `system` as its first turn, and `schema` as its response format.

    `make` draws one example: the text and what is to be answered, as a value. `label` takes from an answer what must be
    right for it to count. `source` is the file that it stands in, `grammar` the
    one with its words.
    """

    name: str
    title: str
    source: str
    grammar: str
    system: str
    schema: dict[str, Any]
    make: Callable[[Picker], tuple[str, Any]]
    label: Callable[[Any], Any]
    num_train: int
    num_dev: int = 120
    num_held_out: int = 200
    max_answer_tokens: int = 128

    def examples(self, split: Split) -> list[Example]:
        """All examples of a split, no text twice. The same on every machine."""
        count = {"train": self.num_train, "dev": self.num_dev, "held_out": self.num_held_out}[split]
        return list(islice(self._stream(split), count))

    def _stream(self, split: Split) -> Iterator[Example]:
        rng = random.Random(f"{self.name} {split}")
        seen: set[str] = set()
        while True:
            picker = Picker(rng, split)
            text, value = self.make(picker)
            if text in seen or (split != "train" and not picker.new):
                continue
            seen.add(text)
            yield Example(text, json.dumps(value, separators=(",", ":")), tuple(picker.new))


def digest_of_examples(examples: list[Example]) -> str:
    """SHA-256 of examples, one JSON line each."""
    lines = "".join(json.dumps([example.text, example.answer]) + "\n" for example in examples)
    return hashlib.sha256(lines.encode()).hexdigest()
