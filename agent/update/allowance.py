"""What a node's link may be used for now. Pure."""

from agent.config import Updates
from agent.update.errand import Allowance
from agent.update.errors import UpdateTroubled
from agent.update.window import BadWindow, is_open, next_change_ms, window_from
from contract.enrolment import DAY_MS
from contract.release import Release

_ON_METERED = {"never": (), "adapters": ("adapter",), "always": ("model", "adapter")}
METERED_WAIT_MS = 3600 * 1000  # the settings may change meanwhile


def allowance(updates: Updates, release: Release, now_ms: int) -> Allowance:
    """What fetching a release may take.

    Raises:
        UpdateTroubled: nothing now; says until when.
    """
    if updates.metered and release.kind not in _ON_METERED[updates.on_metered]:
        why = f"cannot fetch now: the link is metered, and on_metered is {updates.on_metered}"
        raise UpdateTroubled(why, METERED_WAIT_MS)
    try:
        windows = [window_from(text) for text in updates.window]
    except BadWindow as error:
        raise UpdateTroubled(str(error), METERED_WAIT_MS) from error
    change_ms = next_change_ms(windows, now_ms)
    if not is_open(windows, now_ms):
        wait_ms = (change_ms or now_ms + DAY_MS) - now_ms
        raise UpdateTroubled(f"cannot fetch now: no window is open for {wait_ms // 60_000} minutes", wait_ms)
    return Allowance(
        rate_bytes_s=updates.rate_kib_s << 10,
        budget_bytes=(updates.budget_mib_day << 20) or None,
        open_ms=change_ms and change_ms - now_ms,
        day=now_ms // DAY_MS,
        day_left_ms=DAY_MS - now_ms % DAY_MS,
    )
