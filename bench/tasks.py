"""The adapters that ship, on held-out examples of their tasks, beside the base alone. All answers are greedy."""

from pathlib import Path

from agent.models import DEFAULT_FILE
from bench.report import Report
from training.evaluate import Judge, Scores
from training.tasks import SHIPPED, TASKS

MODEL = Path(".shoal/models") / DEFAULT_FILE
# The first of the held-out examples, which stand in no order. The base alone answers fewer: it rambles.
QUICK, QUICK_BASE = 40, 8


def run(report: Report, *, quick: bool) -> None:
    """Asks; one run, because the same question has the same answer."""
    judge = Judge(MODEL.resolve())
    home = _scores(judge, "home-actions", quick=quick)
    free = _scores(judge, "home-actions", quick=quick, is_fitted=False)
    home_base = _scores(judge, "home-actions", quick=quick, has_adapter=False)
    triage = _scores(judge, "log-triage", quick=quick)
    triage_base = _scores(judge, "log-triage", quick=quick, has_adapter=False)
    judge.close()
    report.add("home_exact", "home-actions, wishes answered exactly", "%", [100 * home.exact], at_least=90)
    report.add("home_exact_base", "the same by the base alone", "%", [100 * home_base.exact])
    report.add("home_exact_free", "the same without a schema", "%", [100 * free.exact])
    report.add("home_valid_json", "home-actions, answers that fit the schema", "%", [100 * home.valid], at_least=100)
    report.add("home_valid_json_free", "the same without a schema", "%", [100 * free.valid])
    report.add("log_triage_accuracy", "log-triage, severity and component", "%", [100 * triage.right], at_least=90)
    report.add("log_triage_accuracy_base", "the same by the base alone", "%", [100 * triage_base.right])


def _scores(judge: Judge, name: str, *, quick: bool, has_adapter: bool = True, is_fitted: bool = True) -> Scores:
    examples = TASKS[name].examples("held_out")
    if quick:
        examples = examples[: QUICK if has_adapter else QUICK_BASE]
    return judge.scores(TASKS[name], examples, SHIPPED / f"{name}.gguf" if has_adapter else None, is_fitted=is_fitted)
