"""Which texts of which embedding jobs go into the next step. Pure."""

from collections.abc import Sequence
from typing import NamedTuple


class Pick(NamedTuple):
    """The text number `text` of the job that stands at `job`."""

    job: int
    text: int


def pick_texts(jobs: Sequence[Sequence[int]], *, max_tokens: int, max_texts: int) -> list[Pick]:
    """Texts that share a step. `jobs` has the token counts of the texts that each job still waits for.

    The first job's first text always goes, so every step brings the first job further. Then jobs take turns, so a
    job with a few texts does not wait for one with hundreds. A text that does not fit waits for a later step, and
    those behind it in its job with it.
    """
    picked: list[Pick] = []
    left = max_tokens
    turns = [Pick(job, 0) for job in range(len(jobs))]
    while turns and len(picked) < max_texts:
        pick = turns.pop(0)
        if pick.text == len(jobs[pick.job]):
            continue
        count = jobs[pick.job][pick.text]
        if count > left and picked:
            continue
        picked.append(pick)
        left -= count
        turns.append(Pick(pick.job, pick.text + 1))
    return picked
