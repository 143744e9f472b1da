"""The streams of a context: which are free, what these still hold, and how what they hold moves."""

import contextlib
from collections.abc import Callable

from agent.engine.growth import Growth
from agent.engine.kv_state import Bytes, StateError, saved
from agent.engine.llama import Context, LoadError
from agent.engine.prefix import MIN_SHARED_TOKENS, Computed, PrefixStore
from agent.engine.sequence import Sequence
from agent.engine.switch import Switch


class Streams:
    """A few streams at first, more when they are needed.

    `free` are those without a sequence, the one that was used last at the end; `held` is what these still hold.
    """

    def __init__(
        self, make_context: Callable[[int], Context], max_streams: int, switch: Switch, store: PrefixStore
    ) -> None:
        """Makes the context. `store` takes what a stream must give up.

        Raises:
            LoadError: there is no memory for it.
        """
        self._make_context = make_context
        self._switch = switch
        self._store = store
        self.growth = Growth(max_streams)
        self.context = make_context(self.growth.num_streams)
        self.free = list(range(self.context.parallel))
        self.held: dict[int, Computed] = {}
        self._threads = 0

    def take(self, stream: int, num_kept: int = 0) -> Computed | None:
        """A free stream is in use from now on; returns what it still holds.

        Unless most of that, `num_kept` tokens, is of use in the stream itself, it goes to the store.
        """
        held = self.held.get(stream)
        if held is not None and len(held.marks) - num_kept >= MIN_SHARED_TOKENS and self._store.takes(held):
            state = self.save(stream)
            if state is not None:
                self._store.put(held, saved(state))
        self.free.remove(stream)
        return self.held.pop(stream, None)

    def vacate(self, stream: int, holds: Computed) -> None:
        """A stream is free from now on."""
        self.held[stream] = holds
        self.free.append(stream)

    def save(self, stream: int) -> Bytes | None:
        """What a stream holds, for any stream of any context; None where that cannot be moved."""
        try:
            return self._switch.stripped(self.context.save(stream))
        except StateError:  # a kind of memory that cannot be moved, such as a recurrent one
            return None

    def load(self, stream: int, state: Bytes | None, sequence: Sequence) -> bool:
        """Puts a sequence's state into a stream; False when there is none or it cannot be done."""
        if state is None:
            return False
        try:
            self.context.load(stream, self._switch.dressed(state, sequence))
        except StateError:
            return False
        return True

    def set_threads(self, threads: int) -> None:
        """From the next step on so many threads compute."""
        self._threads = threads
        self.context.set_threads(threads)

    def grow(self) -> list[int]:
        """Goes on in a context with more streams, if there is memory for it; returns the streams that it emptied."""
        try:
            context = self._make_context(self.growth.next())
        except LoadError:
            self.growth.stop()
            return []
        if self._threads:
            context.set_threads(self._threads)
        emptied = []
        for stream in range(self.context.parallel):
            with contextlib.suppress(StateError):  # an empty one, or one that cannot be moved: it is computed again
                context.load(stream, self.context.save(stream))
                continue
            self.held.pop(stream, None)
            emptied.append(stream)
        self.free += range(self.context.parallel, context.parallel)
        self.context.close()
        self.context = context
        return emptied
