"""The training loop: LoRA on the base as it is quantised, acting from the last user turn on.

What stands before the user turn, a task's system turn, is computed once by the base alone and given to every step as
cached keys and values, as the engine does it (`shoal.adapter.activation` = "user"). The loss is that of the answer.

Steps take turns between the base's variants: an adapter that was trained on one of them alone may lose a third of its
answers on another (`README.md`).
"""

import math
import os
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch loads: threads that wait leave the core to others

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from training.tokens import Lesson

RANK = 8
ALPHA = 16
BATCH = 4
LEARNING_RATE = 3e-3
# B alone moves as far as A and B together only with a larger one.
LEARNING_RATE_SHARED_A = 6e-3
WARM_UP_STEPS = 20
SEED = 20_261_121

Matrices = dict[str, tuple[Any, Any]]  # layer's name in transformers → A (rank x inputs), B (outputs x rank), numpy


class Trained(NamedTuple):
    """What came out. `cpu_s` is processor time, that of all threads added up."""

    matrices: Matrices
    losses: list[float]
    cpu_s: float


class Trainer:
    """A base in its variants, with one LoRA on all of its linear layers."""

    def __init__(self, variants: list[Path], prefix: list[int], *, shared_a: bool, threads: int) -> None:
        torch.manual_seed(SEED)
        torch.set_num_threads(threads)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._shared_a = shared_a
        self.learning_rate = LEARNING_RATE_SHARED_A if shared_a else LEARNING_RATE
        models = [
            AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
            for path in variants
        ]
        self._modules = _weighted(models[0])
        self._exact = [[module.weight.data for module in _weighted(model)] for model in models]
        self._rounded = [[_rounded(weight) for weight in weights] for weights in self._exact]
        for module in self._modules:
            if isinstance(module, torch.nn.Linear):
                module.forward = partial(_product, module)
        self._model = models[0]
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", exclude_modules=["lm_head"])
        self._lora = get_peft_model(models[0], config)
        self._layers = {
            name.removeprefix("base_model.model."): module
            for name, module in self._lora.named_modules()
            if hasattr(module, "lora_A")
        }
        self._begin()
        self._prefixes = [self._prefix(weights, prefix) for weights in self._exact]

    def train(self, lessons: list[Lesson], note: Callable[[int, float], None]) -> Trained:
        """Goes through the lessons once; tells `note` each step's number and loss."""
        cpu = time.process_time()
        parameters = [parameter for parameter in self._lora.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=0.0)
        batches = list(_batches(lessons))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, len(batches)))
        losses: list[float] = []
        for step, batch in enumerate(batches):
            loss = self._loss(batch, step % len(self._rounded))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            note(step, losses[-1])
        return Trained(self._matrices(), losses, time.process_time() - cpu)

    def _matrices(self) -> Matrices:
        """A and B of every layer as they are now."""
        return {
            name: (layer.lora_A.default.weight.detach().numpy(), layer.lora_B.default.weight.detach().numpy())
            for name, layer in self._layers.items()
        }

    def logits(self, tokens: list[int]) -> Any:
        """What the first variant with the adapter says after each of the tokens, which follow the prefix; as numpy."""
        self._use(self._exact[0])
        with torch.no_grad():
            hidden = self._hidden(torch.tensor([tokens]), 0)
            return self._model.lm_head(hidden)[0].numpy()

    def _begin(self) -> None:
        """First values: A from numbers that are the same everywhere, rounded as in the file; B zero."""
        rng = np.random.default_rng(SEED)
        for layer in self._layers.values():
            a = layer.lora_A.default.weight
            bound = math.sqrt(3 / a.shape[1])  # Kaiming's, of variance 1 / inputs
            first = rng.uniform(-bound, bound, a.shape).astype(np.float16).astype(np.float32)
            a.data = torch.from_numpy(first)
            a.requires_grad_(not self._shared_a)

    def _use(self, weights: list[Any]) -> None:
        for module, weight in zip(self._modules, weights, strict=True):
            module.weight.data = weight

    def _prefix(self, weights: list[Any], tokens: list[int]) -> list[tuple[Any, Any]]:
        """Keys and values of each layer for the prefix, by the base alone."""
        self._use(weights)
        cache = DynamicCache()
        with torch.no_grad(), self._lora.disable_adapter():
            self._model.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _hidden(self, ids: Any, variant: int) -> Any:
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._prefixes[variant]):
            cache.update(keys.expand(len(ids), -1, -1, -1), values.expand(len(ids), -1, -1, -1), layer)
        embedded = self._model.model.embed_tokens(ids).float()
        return self._model.model(inputs_embeds=embedded, past_key_values=cache, use_cache=True).last_hidden_state

    def _loss(self, batch: list[Lesson], variant: int) -> Any:
        self._use(self._rounded[variant])
        longest = max(len(lesson.tokens) for lesson in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)  # what is behind a lesson nothing looks back at
        says = torch.zeros((len(batch), longest), dtype=torch.bool)
        for row, lesson in enumerate(batch):
            ids[row, : len(lesson.tokens)] = torch.tensor(lesson.tokens)
            says[row, lesson.num_asked - 1 : len(lesson.tokens) - 1] = True
        hidden = self._hidden(ids, variant)[says]
        wanted = ids.roll(-1, dims=1)[says]
        return torch.nn.functional.cross_entropy(self._model.lm_head(hidden), wanted)


def _weighted(model: Any) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "weight")]


def _rounded(weight: Any) -> Any:
    """A matrix as the processor multiplies fastest: the base's, which never changes, may be in 16 bits."""
    is_fast = torch.cpu._is_avx512_bf16_supported()  # there is no public name
    return weight.bfloat16() if is_fast and weight.dim() == 2 else weight


def _product(linear: Any, x: Any) -> Any:
    """A linear layer without bias, in its weights' number format."""
    return torch.nn.functional.linear(x.to(linear.weight.dtype), linear.weight).to(x.dtype)


def _batches(lessons: list[Lesson]) -> Iterator[list[Lesson]]:
    """Batches of lessons of about the same length, in an order of chance."""
    rng = random.Random(SEED)
    groups = []
    for start in range(0, len(lessons), 16 * BATCH):
        some = sorted(lessons[start : start + 16 * BATCH], key=lambda lesson: len(lesson.tokens))
        groups += [some[at : at + BATCH] for at in range(0, len(some), BATCH)]
    rng.shuffle(groups)
    yield from groups


def _share_of_rate(step: int, steps: int) -> float:
    """Rises for a few steps, then falls along a cosine."""
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)))
