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

from agent.engine.llama import Model

# ChatML: for models that carry no template.
FALLBACK = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
MAX_RENDERED_CHARS = 1_000_000


class Prompt(NamedTuple):
    """A prompt's tokens, and how many of them stand before each turn's text: there it may continue another one."""

    tokens: list[int]
    cuts: list[int]


class PromptError(Exception):
    """The template refuses these turns; the message says why."""


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, model: Model) -> None:
        self._model = model
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
        self._template = environment.from_string(model.metadata("tokenizer.chat_template") or FALLBACK)
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
        messages: list[dict[str, Any]] = [
            {"role": role, "content": f"\x02{mark}:{index}\x03"} for index, (role, _) in enumerate(turns)
        ]
        try:
            rendered = self._template.render(messages=messages, add_generation_prompt=True, **self._specials)
        except (TemplateError, TypeError, ValueError, KeyError, ArithmeticError) as error:
            reason = str(error) if isinstance(error, TemplateError) else type(error).__name__
            raise PromptError(reason[:200]) from None
        if len(rendered) > MAX_RENDERED_CHARS:
            raise PromptError("it renders to too long a text")
        tokens: list[int] = []
        cuts: list[int] = []
        for number, piece in enumerate(re.split(f"\x02{mark}:(\\d+)\x03", rendered)):
            is_text = number % 2 == 1
            text = turns[int(piece)][1] if is_text else piece
            if is_text and tokens:
                cuts.append(len(tokens))
            tokens += self._model.tokenize(text, special=not is_text) if text else []
        return Prompt(tokens, cuts)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
