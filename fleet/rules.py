"""What can be wrong with a node, and what shows it. Pure: evidence in, lines for people out.

The rules stand in order of depth: what comes first can bring about what comes later. Some hide the rest: without a
broker all that is known is old, and a node that is locked out says nothing any more. A rule gives the lines that show
it, or none when it does not hold.
"""

from collections.abc import Callable, Iterator

from msgspec import Struct

from fleet.evidence import Evidence

CLOCK_OFF_S = 24 * 3600.0  # `contract.signed.TOLERANCE_MS`: more, and wishes are refused
RENEWAL_LATE_S = 1.75 * 24 * 3600  # a quarter of a certificate's life; renewal is due at half
DISK_LOW_MIB = 64  # the journal, the outbox and SQLite's own log need about this much
RAM_LOW = 0.05
MEMORY_STALLED_PERCENT = 20.0
CPU_STALLED_PERCENT = 50.0
HOT_C = 85.0
THROTTLED_PERCENT = 10.0
MANY_STARTS = 4
MANY_DEATHS = 3
MANY_BUSY = 0.05  # of all answers

Lines = Iterator[str]


class Rule(Struct, frozen=True):
    """When a cause holds: `lines` gives what shows it. `hides` leaves out every cause after it."""

    name: str
    summary: str
    lines: Callable[[Evidence], Lines]
    advice: str
    hides: bool = False


def _broker_down(e: Evidence) -> Lines:
    if e.broker_down_s is not None:
        yield f"the controller has had no connection to the broker for {_span(e.broker_down_s)}"


def _revoked(e: Evidence) -> Lines:
    if e.is_revoked:
        yield "its identity was revoked"


def _not_enrolled(e: Evidence) -> Lines:
    if e.state is not None or e.is_enrolled:
        return
    if e.token_left_s is None:
        yield "it has no token"
    else:
        left_s = e.token_left_s
        yield f"its token runs out in {_span(left_s)}" if left_s > 0 else f"its token ran out {_span(-left_s)} ago"


def _never_came(e: Evidence) -> Lines:
    if e.state is None:
        since = f" since it was enrolled {_span(e.enrolled_s)} ago" if e.enrolled_s is not None else ""
        yield f"it has never been connected{since}"


def _clock_wrong(e: Evidence) -> Lines:
    if e.clock_ahead_s is not None and abs(e.clock_ahead_s) > CLOCK_OFF_S:
        yield f"its clock is {_span(abs(e.clock_ahead_s))} {'fast' if e.clock_ahead_s > 0 else 'slow'}"
        yield from _refused(e, "document_expired", "document_from_future")


def _certificate_expired(e: Evidence) -> Lines:
    if e.certificate_left_s is not None and e.certificate_left_s <= 0:
        yield f"its certificate expired {_span(-e.certificate_left_s)} ago"


def _site_down(e: Evidence) -> Lines:
    if not e.is_here and e.state == "lost" and e.site_nodes > 0 and e.site_nodes_lost == e.site_nodes:
        yield f"{_seen(e)}, and so are all {e.site_nodes} other nodes of site {e.site!r}"


def _stopped(e: Evidence) -> Lines:
    if e.state == "offline":
        yield f"the agent said goodbye; {_seen(e)}"


def _disk_full(e: Evidence) -> Lines:
    if e.disk_free_mib is not None and e.disk_free_mib < DISK_LOW_MIB:
        yield f"{e.disk_free_mib} MiB are free on its disk{_told(e)}"
        yield from _failures(e)


def _no_memory(e: Evidence) -> Lines:
    killed = e.deaths.get("killed", 0)
    if killed >= MANY_DEATHS:
        yield f"{killed} engines were killed from outside lately, as a kernel without memory does{_told(e)}"
    if e.ram_mib and e.ram_available_mib is not None and e.ram_available_mib < RAM_LOW * e.ram_mib:
        yield f"{e.ram_available_mib} of {e.ram_mib} MiB are available{_told(e)}"
    if e.memory_stalled_percent is not None and e.memory_stalled_percent > MEMORY_STALLED_PERCENT:
        yield f"processes waited for memory {e.memory_stalled_percent:.0f} % of the time{_told(e)}"


def _hot(e: Evidence) -> Lines:
    if e.throttled_percent is not None and e.throttled_percent > THROTTLED_PERCENT:
        yield f"its processor was slowed down {e.throttled_percent:.0f} % of the time{_told(e)}"
    if e.temperature_c is not None and e.temperature_c >= HOT_C:
        yield f"its processor has {e.temperature_c:.0f} °C{_told(e)}"


def _keeps_starting(e: Evidence) -> Lines:
    if e.starts >= MANY_STARTS:
        yield f"the agent started {e.starts} times lately"


def _lost(e: Evidence) -> Lines:
    if e.state == "lost":
        yield _seen(e)


def _silent(e: Evidence) -> Lines:
    if e.state in ("online", "degraded", "draining") and e.is_silent:
        yield f"the broker has it as {e.state}, but nothing came for {_span(e.seen_s or 0)}"


def _untrusted_key(e: Evidence) -> Lines:
    yield from _refused(e, "document_key_unknown", "document_key_revoked", "document_forged")


def _revision_reused(e: Evidence) -> Lines:
    yield from _refused(e, "document_revision_reused")


def _no_model(e: Evidence) -> Lines:
    if e.is_here and e.num_models == 0:
        yield f"it has no model{f': {e.engine_problem}' if e.engine_problem else ''}"


def _crash_loop(e: Evidence) -> Lines:
    crashes = e.deaths.get("crash", 0) + e.deaths.get("nonsense", 0)
    if e.is_here and crashes >= MANY_DEATHS:
        yield f"{crashes} engines crashed lately{f'; the last: {e.engine_problem}' if e.engine_problem else ''}"
        yield from _failures(e)


def _hangs(e: Evidence) -> Lines:
    stalls = e.deaths.get("stall", 0)
    if e.is_here and stalls >= MANY_DEATHS:
        yield f"{stalls} engines hung and were replaced lately"


def _update_rejected(e: Evidence) -> Lines:
    if e.is_here and e.phase == "refused" and e.gate_reasons:
        yield f"its gate turned the release of revision {e.reported_rev} away: {e.error}"
        yield from e.gate_reasons


def _wish_refused(e: Evidence) -> Lines:
    if e.is_here and e.phase == "refused" and not e.gate_reasons:
        yield f"it refused revision {e.reported_rev}: {e.error}"


def _model_broken(e: Evidence) -> Lines:
    if e.is_here and e.engine == "broken":
        yield f"its engine does not start: {e.engine_problem or 'it did not say why'}"


def _wish_failed(e: Evidence) -> Lines:
    if e.is_here and e.phase in ("failed", "rolled_back"):
        went = "went back to what was good" if e.phase == "rolled_back" else "could not go back either"
        yield f"revision {e.reported_rev} failed and it {went}: {e.error}"


def _wish_stuck(e: Evidence) -> Lines:
    if e.is_here and e.phase_late_s > 0:
        yield f"revision {e.reported_rev} is {e.phase} for {_span(e.phase_late_s)} longer than it said"


def _wish_not_heard(e: Evidence) -> Lines:
    if e.is_here and e.desired_rev is not None and (e.reported_rev or 0) < e.desired_rev:
        yield f"it reports revision {e.reported_rev or 0}, {e.desired_rev} is wished for"


def _quarantine(e: Evidence) -> Lines:
    if e.is_here and e.quarantined:
        yield f"{e.quarantined} requests, schemas or adapters are in quarantine because engines died of them"


def _other_work(e: Evidence) -> Lines:
    if e.is_here and e.cpu_stalled_percent is not None and e.cpu_stalled_percent > CPU_STALLED_PERCENT:
        yield f"processes waited for a core {e.cpu_stalled_percent:.0f} % of the time"


def _overloaded(e: Evidence) -> Lines:
    if not e.is_here:
        return
    busy, everything = e.answers.get(429, 0), sum(e.answers.values())
    if busy > MANY_BUSY * everything:
        yield f"{busy} of {everything} requests were refused lately because the queue was full (429)"
    if e.queue is not None and e.queue_limit and e.queue >= e.queue_limit:
        yield f"{e.queue} requests wait, which is all that may"


def _renewal_late(e: Evidence) -> Lines:
    if e.certificate_left_s is not None and 0 < e.certificate_left_s < RENEWAL_LATE_S:
        yield f"its certificate expires in {_span(e.certificate_left_s)} and was not renewed at half its life"


def _draining(e: Evidence) -> Lines:
    if e.is_here and e.state == "draining":
        yield "it is being stopped and ends what runs"


# They only repeat what is seen, so they are left out when something deeper is known.
LAST_RESORT = {"lost", "silent", "wish_not_heard"}

RULES = (
    Rule("broker_down", "the broker is down, or out of the controller's reach", _broker_down,
         "Start it, or look at the network between it and the controller; all that is known is from before.", True),
    Rule("revoked", "it is locked out", _revoked,
         "If that was a mistake: `fleet token create --node {node}` and enrol it again.", True),
    Rule("not_enrolled", "it has not enrolled yet", _not_enrolled,
         "Run the line from `fleet token create --node {node}` on it, or `fleet revoke {node}` to give it up.", True),
    Rule("never_came", "it was enrolled and never came", _never_came,
         "Look at `systemctl status shoal-agent` on it, and whether it reaches the broker's address and port.", True),
    Rule("clock_wrong", "its clock is wrong", _clock_wrong,
         "Set it, and see to NTP: certificates and wishes are refused until then; requests are answered."),
    Rule("certificate_expired", "its certificate has expired", _certificate_expired,
         "It renews by itself for 30 days if it reaches the controller; later `fleet token create --node {node}`."),
    Rule("site_down", "its whole site is away", _site_down,
         "Look at power and network there; nothing points at this node."),
    Rule("stopped", "it was stopped", _stopped,
         "Somebody or an update stopped it: `systemctl start shoal-agent` on it."),
    Rule("disk_full", "its disk is full", _disk_full,
         "Make room on it: without it there is no journal, so it refuses requests and cannot follow wishes."),
    Rule("no_memory", "it has too little memory", _no_memory,
         "Give it a smaller model, fewer parallel requests or `[engine] memory_mib`; see what else runs there."),
    Rule("hot", "it is too hot", _hot, "See to its cooling; it is slower until then."),
    Rule("keeps_starting", "the agent keeps dying", _keeps_starting,
         "Look at `journalctl -u shoal-agent` on it, and at its power supply."),
    Rule("lost", "it went away without a goodbye", _lost,
         "Look at its power and network. If it is up, look at `systemctl status shoal-agent` on it."),
    Rule("silent", "it is connected and says nothing", _silent,
         "The link is half open or the agent hangs: restart the agent, then look at the network."),
    Rule("untrusted_key", "it does not trust the controller's key", _untrusted_key,
         "If the controller's key changed, enrol it anew; if it did not, somebody forges wishes: look at the audit."),
    Rule("revision_reused", "the controller gave out a revision twice", _revision_reused,
         "The controller was set back, perhaps from a backup. `fleet set` gives out the next; repeat until it holds."),
    Rule("no_model", "it has no model", _no_model,
         "Put a GGUF file into its models folder: `shoal-agent models fetch` on it."),
    Rule("crash_loop", "its engine crashes again and again", _crash_loop,
         "See `fleet cmd {node} logs`; another model or build may be needed. What it crashed on is in quarantine."),
    Rule("hangs", "its engine hangs again and again", _hangs,
         "Look at its storage and other work on it; `[engine] stall_s` may be too short for its speed."),
    Rule("model_broken", "its model does not load", _model_broken,
         "Check the file (`shoal-agent models`) and replace it; other models still answer."),
    Rule("update_rejected", "it tried a release and found it bad", _update_rejected,
         "It serves what it had. Mend the release and publish a new version; see `fleet rollout ls`."),
    Rule("wish_refused", "it refuses what it is wished to be", _wish_refused,
         "Wish for something that it has: `fleet show {node}` lists it."),
    Rule("wish_failed", "it could not become what it is wished to be", _wish_failed,
         "Mend the reason, then `fleet set` again: it does not try the same revision twice."),
    Rule("wish_stuck", "it is stuck on its way", _wish_stuck,
         "Restart the agent; it takes up the wish, at most three times."),
    Rule("wish_not_heard", "it has not heard the last wish", _wish_not_heard,
         "It is sent again at its next heartbeat; if that does not help, look at the broker's access rules."),
    Rule("other_work", "other work takes its processor", _other_work,
         "See what else runs on it; threads follow what is left."),
    Rule("overloaded", "it is asked for more than it can do", _overloaded,
         "Send less, add nodes to its pool, or give it a smaller model."),
    Rule("quarantine", "it refuses what engines died of", _quarantine,
         "See `shoal-agent quarantine ls` on it, and release what was not to blame."),
    Rule("renewal_late", "its certificate is not being renewed", _renewal_late,
         "Look whether it reaches the controller's address: that is another one than the broker's."),
    Rule("draining", "it is being stopped", _draining, "Wait, or start it again."),
)  # fmt: skip


def _refused(e: Evidence, *events: str) -> Lines:
    yield from (f"it refused a document: {event}" for event in events if event in e.document_refusals)


def _failures(e: Evidence) -> Lines:
    if count := e.answers.get(500, 0):
        yield f"{count} of {sum(e.answers.values())} requests failed lately (5xx)"


def _seen(e: Evidence) -> str:
    return "it was never heard" if e.seen_s is None else f"it was last heard {_span(e.seen_s)} ago"


def _told(e: Evidence) -> str:
    """How old that is, when the node is not there to say it again."""
    return "" if e.is_here or e.seen_s is None else f" (told {_span(e.seen_s)} ago)"


def _span(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
