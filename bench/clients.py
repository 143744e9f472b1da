"""Clients that ask: so many in a closed loop, each its next request when it has its answer; or on a timetable."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from bench.load import Answer, Ask

# Asks as the client with this number and waits for the end.
Answering = Callable[[int, Ask], Answer]


def closed_loop(answering: Answering, asks: Sequence[Ask], num_clients: int) -> list[Answer]:
    """All `asks`, in their order as far as clients are free."""
    waiting = deque(asks)

    def client(number: int) -> list[Answer]:
        answers: list[Answer] = []
        while True:
            try:
                ask = waiting.popleft()
            except IndexError:
                return answers
            answers.append(answering(number, ask))

    with ThreadPoolExecutor(num_clients) as pool:
        return [answer for answers in pool.map(client, range(num_clients)) for answer in answers]


def open_loop(answering: Answering, asks: Sequence[Ask]) -> list[Answer]:
    """Each at its time, by a client of its own, whatever became of the others."""
    began = time.monotonic()

    def client(number: int) -> Answer:
        time.sleep(max(0.0, began + asks[number].at_s - time.monotonic()))
        return answering(number, asks[number])

    with ThreadPoolExecutor(len(asks)) as pool:
        return list(pool.map(client, range(len(asks))))
