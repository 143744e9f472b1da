"""Makes the lane in which different adapters decode in one batch. Takes a second or so, beside the engine's work."""

import contextlib
import mmap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agent.engine import frames
from agent.engine.adapters import Adapter, Adapters
from agent.engine.canary import canary
from agent.engine.lane import Lane
from agent.engine.llama import Context, LoadError, Model
from agent.engine.prefix import PrefixStore
from agent.engine.sequence import Sequence
from agent.engine.shards import base_shard
from agent.engine.stack import Stack
from agent.engine.switch import SlotSwitch
from agent.engine.template import ChatTemplate, PromptError
from agent.errors import ModelError
from agent.weights.adapter import SLOT_RANK
from agent.weights.base_model import read_base
from agent.weights.gguf import parse


class SlotLane(NamedTuple):
    """The lane, and what a sequence must be like to run there."""

    lane: Lane
    stack: Stack
    substitute: int
    activation_tokens: list[int]

    def fits(self, sequence: Sequence, adapter: Adapter | None) -> bool:
        """Whether a sequence can run here: with its adapter, beginning to act at this place."""
        if not set(sequence.tokens).isdisjoint(self.activation_tokens):
            return False
        if adapter is None:
            return True
        return sequence.tokens[sequence.activation] == self.substitute and self.stack.obstacle(adapter) is None


class NoSlots(Exception):
    """This model cannot have slots; the message says why."""


def make_slot_lane(
    load: frames.Load,
    num_slots: int,
    model: Model,
    template: ChatTemplate,
    adapters: Adapters,
    store: PrefixStore,
    make_context: Callable[[Model, int], Context],
) -> SlotLane:
    """Loads the model once more, in the form that takes slots.

    Raises:
        NoSlots: it has no such form, or there is no space for it.
    """
    if not load.flags["use_mmap"]:
        raise NoSlots("slots need mapped files, which the load flags of this host rule out")
    with Path(load.file).open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        try:
            parsed = parse(data)
            if obstacle := read_base(data).slots_obstacle:
                raise NoSlots(obstacle)
            tokens, substitute = _activation_tokens(model, template, num_slots)
            with memoryview(data) as view:
                stack = Stack(parsed, view, rank=SLOT_RANK, activation_tokens=tokens, substitute=substitute)
                shard = base_shard(Path(load.cache_dir), load.sha256, parsed, view)
            switching = Model(
                stack.path, str(shard), use_extra_bufts=load.flags["use_extra_bufts"], use_mmap=load.flags["use_mmap"]
            )
            switch = SlotSwitch(adapters, stack, tokens, switching.head_size)
            lane = Lane(partial(make_context, switching), load.parallel, switch, store, banned=tokens)
        except (ModelError, LoadError, OSError) as error:
            raise NoSlots(str(error)) from error
    canary(lane.context)
    return SlotLane(lane, stack, substitute, tokens)


def _activation_tokens(model: Model, template: ChatTemplate, wanted: int) -> tuple[list[int], int]:
    """Tokens that no prompt and no answer has, one for each slot; and the token that begins every prompt."""
    turns = [("system", "x"), ("user", "x"), ("assistant", "x"), ("user", "x")]
    prompts = []
    for some in (turns, turns[1:], turns[1:2], turns[:2]):
        with contextlib.suppress(PromptError):  # some templates want certain turns
            prompts.append(template.prompt(some).tokens)
    used = {token for prompt in prompts for token in prompt}
    if not used:
        raise NoSlots("its chat template takes none of the usual turns")
    found = [
        token
        for token in range(model.num_vocab)
        if model.is_control(token)
        and not model.ends(token)
        and token not in used
        and token not in (model.bos, model.eos)
        and not template.mentions(model.piece(token, special=True))
    ]
    if not found:
        raise NoSlots("its vocabulary has no unused control token to stand for a slot")
    return found[:wanted], prompts[0][0]
