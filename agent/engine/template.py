"""Chat turns to prompt tokens, by the model's own chat template.

The template is code (Jinja) that came with the model, so it runs in a sandbox and in the engine's process. What
people wrote never meets the tokenizer's special tokens: the template is rendered with marks in place of the texts,
and the pieces between the marks are tokenized with special tokens on, the texts with special tokens off.
"""

import re
import secrets
from datetime import UTC, datetime
from typing import Any, NamedTuple, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.engine.llama import LoadError, Model

# ChatML: for models that carry no template.
FALLBACK = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
MAX_RENDERED_CHARS = 1_000_000


class Prompt(NamedTuple):
    """A prompt's tokens, how many of them stand before each turn, and before the last user turn.

    At the turns (`cuts`, ascending) it may continue another prompt; at the last user turn (`user`) an adapter may begin
    to act.
    """

    tokens: list[int]
    cuts: list[int]
    user: int


class PromptError(Exception):
    """The template refuses these turns; the message says why."""


class ChatTemplate:
    """A compiled chat template.

    Raises:
        LoadError: the model's template is none.
    """

    def __init__(self, model: Model, source: str | None = None) -> None:
        """`source` takes the place of the template in the model's file."""
        self._model = model
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
        self._source = source or model.metadata("tokenizer.chat_template") or FALLBACK
        try:
            self._template = environment.from_string(self._source)
        except (TemplateError, RecursionError) as error:
            raise LoadError(f"its chat template cannot be used: {type(error).__name__}") from None
        self._specials = {
            "bos_token": model.piece(model.bos, special=True).decode(errors="replace") if model.bos >= 0 else "",
            "eos_token": model.piece(model.eos, special=True).decode(errors="replace") if model.eos >= 0 else "",
        }

    def prompt(self, turns: list[tuple[str, str]]) -> Prompt:
        """The prompt for `turns`, up to where the assistant speaks.

        Raises:
            PromptError: the template does not take these turns.
        """
        mark = secrets.token_hex(8)  # so that no text can hold a mark
        rendered = self._render(turns, mark)
        tokens: list[int] = []
        cuts: list[int] = []
        user = begin = 0
        for number, piece in enumerate(re.split(f"\x02{mark}:(\\d+)\x03", rendered)):
            if number % 2 == 0:  # the template's own words
                words = self._model.tokenize(piece, special=True) if piece else []
                start = len(tokens)
                tokens += words
                # A turn begins where these words last show the prompt's first token, such as <|im_start|>.
                begin = max((start + at for at, token in enumerate(words) if token == tokens[0]), default=len(tokens))
                continue
            role, text = turns[int(piece)]
            if begin:
                cuts.append(begin)
            if role == "user":
                user = begin
            tokens += self._model.tokenize(text, special=False) if text else []
        return Prompt(tokens, cuts, user)

    def words(self, turns: list[tuple[str, str]]) -> str:
        """What the template itself says around these turns.

        Raises:
            PromptError: the template does not take them, or leaves one of them out.
        """
        mark = secrets.token_hex(8)
        words = re.split(f"\x02{mark}:(\\d+)\x03", self._render(turns, mark))
        if {int(number) for number in words[1::2]} != set(range(len(turns))):
            raise PromptError("it leaves a turn out")
        return "".join(words[::2])

    def mentions(self, piece: bytes) -> bool:
        """Whether the template's source has this text."""
        return piece in self._source.encode()

    def _render(self, turns: list[tuple[str, str]], mark: str) -> str:
        """The template's text with marks in place of what the turns say."""
        messages: list[dict[str, Any]] = [
            {"role": role, "content": f"\x02{mark}:{index}\x03"} for index, (role, _) in enumerate(turns)
        ]
        try:
            rendered = self._template.render(messages=messages, add_generation_prompt=True, **self._specials)
        except Exception as error:  # noqa: BLE001  # somebody else's code: it may raise anything, also RecursionError and MemoryError
            reason = str(error) if isinstance(error, TemplateError) else type(error).__name__
            raise PromptError(reason[:200]) from None
        if len(rendered) > MAX_RENDERED_CHARS:
            raise PromptError("it renders to too long a text")
        return rendered


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
