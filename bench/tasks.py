"""The adapters that ship, on held-out examples of their tasks, beside the base alone. All answers are greedy."""

from pathlib import Path

from agent.models import DEFAULT_FILE
from bench.report import Report
from training.evaluate import Judge, Scores
from training.tasks import SHIPPED, TASKS

MODEL = Path(".shoal/models") / DEFAULT_FILE
# How many of the held-out examples, which stand in no order, a quick run asks; how many are asked without adapter or
# schema, which is for comparison only and takes longer: the base alone rambles.
QUICK, BESIDE, QUICK_BESIDE = 40, 50, 8


def run(report: Report, *, quick: bool) -> None:
    """Asks; one run, because the same question has the same answer."""
    num, num_beside = (QUICK, QUICK_BESIDE) if quick else (None, BESIDE)
    judge = Judge(MODEL.resolve())
    home = _scores(judge, "home-actions", num)
    report.add("home_exact", "home-actions, wishes answered exactly", "%", [100 * home.exact], at_least=90)
    report.add("home_valid_json", "home-actions, answers that fit the schema", "%", [100 * home.valid], at_least=100)
    triage = _scores(judge, "log-triage", num)
    report.add("log_triage_accuracy", "log-triage, severity and component", "%", [100 * triage.right], at_least=90)
    free = _scores(judge, "home-actions", num_beside, is_fitted=False)
    report.add("home_exact_free", "home-actions without a schema, exact", "%", [100 * free.exact])
    report.add("home_valid_json_free", "the same, answers that fit the schema", "%", [100 * free.valid])
    home_base = _scores(judge, "home-actions", num_beside, has_adapter=False)
    report.add("home_exact_base", "home-actions by the base alone, exact", "%", [100 * home_base.exact])
    triage_base = _scores(judge, "log-triage", num_beside, has_adapter=False)
    report.add("log_triage_accuracy_base", "log-triage by the base alone", "%", [100 * triage_base.right])
    judge.close()


def _scores(judge: Judge, name: str, num: int | None, *, has_adapter: bool = True, is_fitted: bool = True) -> Scores:
    examples = TASKS[name].examples("held_out")[:num]
    return judge.scores(TASKS[name], examples, SHIPPED / f"{name}.gguf" if has_adapter else None, is_fitted=is_fitted)
