"""A context at work: which sequences are in its streams, which wait, and the steps it makes."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from agent.engine.batch import Share, plan
from agent.engine.kv_state import SavedState
from agent.engine.llama import Context
from agent.engine.prefix import MIN_SHARED_TOKENS, Computed, PrefixStore, num_usable
from agent.engine.row import Logits
from agent.engine.sequence import Sequence, Stage
from agent.engine.streams import Streams
from agent.engine.switch import Switch
from agent.engine.turns import Turns
from agent.errors import ModelError

# What is shorter is computed where the answer is: a step of its own and moving would cost as much.
MIN_PREPARED_TOKENS = 16


class Refusal(NamedTuple):
    """A sequence that cannot run here, and why."""

    sequence: Sequence
    why: str


class Source(NamedTuple):
    """Where a prompt's beginning is, in a lane's stream or in an entry of the store, and how many tokens of it count.

    An entry's `state` is held here, because what a stream must give up may drive it out of the store.
    """

    num_tokens: int = 0
    lane: "Lane | None" = None
    stream: int | None = None
    entry: int = 0
    state: SavedState | None = None


class Lane:
    """Sequences in the streams of one context, and those that wait for a stream (`pending`), parked ones among them."""

    def __init__(
        self,
        make_context: Callable[[int], Context],
        max_streams: int,
        switch: Switch,
        store: PrefixStore,
        banned: list[int] | None = None,
    ) -> None:
        """Makes the context, with a few streams at first and up to `max_streams` when they are needed.

        `store` may be shared with other lanes; `banned` tokens are never chosen: here they mean something else.

        Raises:
            LoadError: there is no memory for it.
        """
        self.streams = Streams(make_context, max_streams, switch, store)
        self.sequences: list[Sequence] = []
        self.pending: list[Sequence] = []
        self._switch = switch
        self._store = store
        self.banned = banned or []
        self._turns = Turns()
        self.peers: list[Lane] = []  # whose streams may hold the beginnings of prompts, too
        self._refused: list[Refusal] = []

    @property
    def context(self) -> Context:
        """The context, which is another one once the lane has grown."""
        return self.streams.context

    @property
    def all_sequences(self) -> list[Sequence]:
        """In streams or waiting."""
        return [*self.sequences, *self.pending]

    def computed(self, without: Sequence) -> Iterator[tuple[int, Computed]]:
        """What its streams hold, those of sequences included, but for one."""
        yield from self.streams.held.items()
        for sequence in self.sequences:
            if sequence is not without and sequence.stream is not None and sequence.position:
                yield sequence.stream, sequence.computed

    def add(self, sequence: Sequence) -> None:
        """Takes a sequence; `arrange` gives it a stream."""
        self.pending.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence ended. What its stream has computed stays for others."""
        if sequence in self.pending:
            self.pending.remove(sequence)
        else:
            self.sequences.remove(sequence)
            self._vacate(sequence)

    def give_up(self, sequence: Sequence) -> Sequence:
        """The sequence goes to another lane, with what it has computed."""
        if sequence not in self.pending:
            self._park(sequence)
        self.pending.remove(sequence)
        return sequence

    def prepares(self, sequence: Sequence) -> bool:
        """Whether the sequence's prompt is computed here, also when its answer is not.

        In a lane without slots a token of a prompt takes half to two thirds of the time, the switch between adapters
        included, as soon as there are some of them.
        """
        has_begun = sequence.stream is not None
        num_left = sequence.num_prompt_tokens - sequence.position
        return sequence.stage is Stage.PROMPT and (has_begun or num_left >= MIN_PREPARED_TOKENS)

    def refusals(self) -> list[Refusal]:
        """Sequences that turned out not to run here; they are gone from the lane. Each is returned once."""
        refused, self._refused = self._refused, []
        return refused

    def arrange(self, *, may_grow: bool = True) -> None:
        """Gives streams to those that wait, the most urgent first; one of lower priority is parked for them."""
        if not self.pending:
            return
        self._switch.note_waiting({s.adapter for s in self.pending if s.adapter})
        for sequence in sorted(self.pending, key=lambda s: -s.priority):
            least = None if self.streams.free else min(reversed(self.sequences), key=lambda s: s.priority)
            if least and least.priority >= sequence.priority:
                break
            try:
                if not self._switch.claim(sequence) and not self._claims_by_force(sequence):
                    continue
            except ModelError as error:
                self.pending.remove(sequence)
                self._refused.append(Refusal(sequence, str(error)))
                continue
            if least and not self.streams.free:
                self._park(least)
            self.pending.remove(sequence)
            self.sequences.append(sequence)
            self._place(sequence)
        if may_grow and self.pending and not self.streams.free and self.streams.growth.is_worth_it:
            emptied = self.streams.grow()
            for sequence in [s for s in self.sequences if s.stream in emptied]:
                sequence.position = 0

    def _claims_by_force(self, sequence: Sequence) -> bool:
        """Parks those for whom a slot is in use, if all of them are less urgent, and takes it."""
        users: dict[int, list[Sequence]] = {}
        for other in self.sequences:
            users.setdefault(other.slot, []).append(other)
        users.pop(0, None)
        weaker = [some for some in users.values() if all(other.priority < sequence.priority for other in some)]
        if not weaker:
            return False
        for other in min(weaker, key=len):
            self._park(other)
        return self._switch.claim(sequence)

    @property
    def has_prompts(self) -> bool:
        """Whether the next step computes tokens of prompts."""
        return any(s.stage is Stage.PROMPT and s.leader is None for s in self.sequences)

    def step(self, max_tokens: int) -> list[tuple[Sequence, Logits]]:
        """Computes the next tokens, at most so many; returns the sequences that now choose one, with their logits."""
        for sequence in self.sequences:
            self._catch_up(sequence)
        self._close_gap()
        ready = [s for s in self.sequences if s.leader is None]
        group = self._turns.choose({self._switch.group(s) for s in ready})
        if group is None:
            return []
        shares = plan([s for s in ready if self._switch.group(s) == group], max_tokens)
        # llama.cpp computes rows together only where their streams ascend by one (`split_equal`).
        shares.sort(key=lambda share: _stream(share.sequence))
        try:
            self._switch.activate(self.context, group)
        except ModelError as error:
            for sequence, _, _ in shares:
                self.remove(sequence)
                self._refused.append(Refusal(sequence, str(error)))
            return []
        started = time.monotonic()
        if not self.context.decode(self._rows(shares)):
            for sequence, _, _ in shares:
                if not self.context.truncate(_stream(sequence), sequence.position):
                    sequence.begin(_stream(sequence), self.context.keep(_stream(sequence), 0))
            return []
        if len(shares) == self.context.parallel and all(share.num_tokens == 1 for share in shares):
            self.streams.growth.note(len(shares) / (time.monotonic() - started))
        row = -1
        chosen = []
        for share in shares:
            row += share.num_tokens
            share.sequence.position += share.num_tokens
            if share.samples:
                logits = self.context.logits(row)
                logits[self.banned] = -np.inf
                chosen.append((share.sequence, logits))
        return chosen

    def _place(self, sequence: Sequence) -> None:
        """Puts a sequence into a stream, with as much of it as is computed already somewhere."""
        state, sequence.saved = sequence.saved, None
        source = self._best_source(sequence) if state is None else Source()
        is_here = source.lane is self and source.stream in self.streams.free
        stream = source.stream if is_here and source.stream is not None else self.streams.free[0]
        held = self.streams.take(stream, source.num_tokens if is_here else 0)
        sequence.stream = stream
        if not self.streams.load(stream, state, sequence):
            sequence.begin(stream, 0)
            self._inherit(sequence, source, held)
            self._follow(sequence)

    def _inherit(self, sequence: Sequence, source: Source, held: Computed | None = None) -> None:
        """Takes over what a source holds. `held` is what the sequence's own stream still had."""
        stream = _stream(sequence)
        if source.state is not None:
            if not self.streams.load(stream, source.state.whole, sequence):
                self._store.drop(source.entry)
                source = Source()
        elif (
            source.lane is not None
            and source.stream is not None
            # Only a stream's own memory can stay where it is, unless it names another slot.
            and ((source.lane, source.stream) != (self, stream) or _names_other_slot(held, sequence, source.num_tokens))
            and not self.streams.load(stream, source.lane.streams.save(source.stream), sequence)
        ):
            source = Source()
        # Also where nothing could be taken over: what the stream held is of no use then.
        sequence.begin(stream, self.context.keep(stream, source.num_tokens))

    def _best_source(self, sequence: Sequence) -> Source:
        prompt, cuts = sequence.marks, sequence.cuts
        best = Source()
        for stream in reversed(self.streams.free):
            if stream in self.streams.held:
                usable = num_usable(prompt, cuts, self.streams.held[stream])
                best = Source(usable, self, stream) if usable > best.num_tokens else best
        # From here on it must be moved, which a few tokens are not worth.
        least = best.num_tokens + MIN_SHARED_TOKENS
        for lane in (self, *self.peers):
            for stream, computed in lane.computed(without=sequence):
                usable = num_usable(prompt, cuts, computed)
                if usable >= max(least, best.num_tokens + 1):
                    best = Source(usable, lane, stream)
        entry, usable = self._store.best(prompt, cuts)
        if usable >= max(least, best.num_tokens + 1):
            return Source(usable, entry=entry, state=self._store.get(entry))
        return best

    def _follow(self, sequence: Sequence) -> None:
        """Lets a sequence wait for another one that is about to compute the same beginning."""
        prompt, position = sequence.marks, sequence.position
        sequence.leader = None
        for other in self.sequences:
            if other is sequence or other.stage is not Stage.PROMPT or other.priority < sequence.priority:
                continue
            if other.leader and _leads_to(other, sequence):
                continue
            coming = Computed(other.marks[: other.num_prompt_tokens], other.num_prompt_tokens)
            usable = num_usable(prompt, sequence.cuts, coming)
            if usable >= position + MIN_SHARED_TOKENS:
                sequence.leader, position = (other, usable), usable

    def _catch_up(self, sequence: Sequence) -> None:
        """Ends a sequence's waiting when what it waits for is there, or will not come."""
        if sequence.leader is None:
            return
        other, num_tokens = sequence.leader
        if other in self.sequences and other.position >= num_tokens:
            sequence.leader = None
            self._inherit(sequence, Source(num_tokens, self, other.stream))
        elif other not in self.sequences:
            source = self._best_source(sequence)
            if source.num_tokens >= sequence.position + MIN_SHARED_TOKENS:
                self._inherit(sequence, source)
            self._follow(sequence)

    def _close_gap(self) -> None:
        """Moves the sequence in the last stream to where one is free between others.

        A gap splits every step into two passes over the weights; moving costs a fraction of one.
        """
        used = sorted(_stream(sequence) for sequence in self.sequences)
        gap = next((one + 1 for one, other in pairwise(used) if other > one + 1), None)
        if gap is None:
            return
        sequence = next(s for s in self.sequences if s.stream == used[-1])
        state = self.streams.save(used[-1]) if sequence.position else None
        if state is None and sequence.position:
            return
        self.streams.take(gap)
        self.streams.free.insert(0, used[-1])
        sequence.stream = gap
        if not self.streams.load(gap, state, sequence):
            sequence.position = self.context.keep(gap, 0)

    def _park(self, sequence: Sequence) -> None:
        """Takes the stream from a sequence, which goes on later, here or in another lane."""
        self.sequences.remove(sequence)
        self.pending.append(sequence)
        sequence.leader = None
        sequence.saved = self.streams.save(_stream(sequence)) if sequence.position else None
        if sequence.saved is None:
            sequence.position = 0
        self._vacate(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        self.streams.vacate(_stream(sequence), sequence.computed)
        sequence.stream = None
        self._switch.release(sequence)

    def _rows(self, shares: list[Share]) -> list[tuple[int, int, int, bool]]:
        rows = []
        for sequence, count, samples in shares:
            start, stream = sequence.position, _stream(sequence)
            rows += [(self._switch.token(sequence, p), p, stream, False) for p in range(start, start + count)]
            if samples:
                rows[-1] = (*rows[-1][:3], True)
        return rows


def _stream(sequence: Sequence) -> int:
    if sequence.stream is None:
        raise RuntimeError("a sequence without a stream")
    return sequence.stream


def _leads_to(sequence: Sequence, other: Sequence) -> bool:
    """Whether `sequence` waits, over others maybe, for `other`."""
    while sequence.leader is not None:
        sequence = sequence.leader[0]
        if sequence is other:
            return True
    return False


def _names_other_slot(held: Computed | None, sequence: Sequence, num_tokens: int) -> bool:
    """Whether what is taken over was computed in another slot than the sequence has now."""
    return held is not None and held.slot != sequence.slot and num_tokens > sequence.activation
