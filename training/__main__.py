"""`python -m training`: trains an adapter of this project again, or scores one.

    python -m training home-actions [--out FOLDER] [--shared-a] [--examples N]
    python -m training log-triage [--out FOLDER] [--shared-a] [--examples N]
    python -m training evaluate NAME … [--out FOLDER] [--nth N]
    python -m training dev NAME … [--out FOLDER]

`dev` asks the examples that choices are made by, and shows the mistakes. `evaluate` asks the blind test's, of which
only scores are shown. What is written: NAME.gguf, the schema for its requests, and its card (NAME.json, NAME.md).
Variants of the base model are made beside them once.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import msgspec

from agent.models import DEFAULT_FILE, digest_of
from training.card import BlindTest, Card, Data, Score, Training, read_card, scores_by_base, unfit_variants, write_card
from training.evaluate import Judge, mistakes, scores_of
from training.task import Task, digest_of_examples
from training.tasks import SHARED_A, TASKS, task_of
from training.variants import SHIPPED, make_variant

BASE = Path(".shoal/models") / DEFAULT_FILE
OUT = Path("build/training")
TRAINED_ON = (SHIPPED, "Q4_0")
EVALUATED_ON = (SHIPPED, "Q4_0", "Q8_0")
CHECKED_EXAMPLES = 3
# So many of the test's examples are asked without the adapter or without the schema, which is for comparison only.
NUM_BESIDE = 50


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train and score this project's adapters.")
    parser.add_argument("command", choices=[*TASKS, "dev", "evaluate"], help="the adapter to train, or dev, evaluate")
    parser.add_argument("names", nargs="*", help="dev, evaluate: names of adapters in the folder")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write to ({OUT})")
    parser.add_argument("--shared-a", action="store_true", help="train B alone; A is the same for all adapters")
    parser.add_argument("--examples", type=int, help="train with so many examples, instead of all of the task's")
    parser.add_argument("--threads", type=int, default=2, help="as many as there are idle cores (2)")
    parser.add_argument("--nth", type=int, default=1, help="evaluate: how often the test was asked, with this time (1)")
    given = parser.parse_args()
    base = BASE.resolve()
    if not base.is_file():
        parser.exit(2, f"cannot find the base model {BASE}: run `python3 bootstrap.py model`\n")
    OUT.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "evaluate":
        for name in given.names:
            evaluate(given.out, name, base, given.nth)
    elif given.command == "dev":
        for name in given.names:
            show_mistakes(given.out, name, base)
    else:
        task = TASKS[given.command]
        if given.examples:
            task = msgspec.structs.replace(task, num_train=given.examples)
        train(given.out, task, base, shared_a=given.shared_a, threads=given.threads)
    return 0


def train(folder: Path, task: Task, base: Path, *, shared_a: bool, threads: int) -> None:
    """Trains an adapter, writes its file, schema and card, and compares it with llama.cpp."""
    from training import loop  # PyTorch
    from training.check import logit_difference
    from training.export import write_adapter
    from training.tokens import lessons_of

    name = task.name + (SHARED_A if shared_a else "")
    examples = task.examples("train")
    prefix, lessons = lessons_of(task, examples, base)
    variants = [make_variant(base, variant, OUT) for variant in TRAINED_ON]
    trainer = loop.Trainer(variants, prefix, shared_a=shared_a, threads=threads)
    trained = trainer.train(lessons, lambda step, loss: _say(f"{name} step {step + 1}: loss {loss:.4f}"))
    path = folder / f"{name}.gguf"
    base_sha256 = digest_of(base)
    write_adapter(path, trained.matrices, alpha=loop.ALPHA, name=name, base=base, base_sha256=base_sha256)
    schema = folder / f"{task.name}.schema.json"
    schema.write_bytes(msgspec.json.format(msgspec.json.encode(task.schema), indent=2) + b"\n")
    base_f32 = make_variant(base, "F32", OUT)
    difference = logit_difference(task, task.examples("dev")[:CHECKED_EXAMPLES], base_f32, path, trainer.logits)
    card = Card(
        name=name,
        task=task.title,
        adapter_sha256=digest_of(path),
        num_bytes=path.stat().st_size,
        license="Apache-2.0",
        base=base.name,
        base_sha256=base_sha256,
        activation="user",
        system=task.system,
        schema=schema.name,
        data=Data(
            source=task.source,
            grammar=task.grammar,
            seed=task.name,
            num_train=len(examples),
            train_sha256=digest_of_examples(examples),
        ),
        training=Training(
            steps=len(trained.losses),
            batch=loop.BATCH,
            rank=loop.RANK,
            alpha=loop.ALPHA,
            learning_rate=trainer.learning_rate,
            seed=loop.SEED,
            is_a_shared=shared_a,
            variants=list(TRAINED_ON),
            first_loss=round(trained.losses[0], 4),
            last_loss=round(fmean(trained.losses[-20:]), 4),
            cpu_s=round(trained.cpu_s),
            threads=threads,
            versions={package: version(package) for package in ("torch", "transformers", "peft")},
        ),
        logit_difference=difference,
    )
    write_card(folder, card)
    _say(f"{path}: {trained.cpu_s:.0f} s of processor time, logits differ from llama.cpp's by up to {difference:.2g}")


def show_mistakes(folder: Path, name: str, base: Path) -> None:
    """Asks the examples to choose by, and prints what was answered wrongly."""
    task = task_of(name)
    examples = task.examples("dev")
    judge = Judge(base)
    answers = judge.answers(task, examples, folder / f"{name}.gguf", is_fitted=True)
    judge.close()
    for mistake in mistakes(task, examples, answers):
        _say(msgspec.json.encode(mistake).decode())
    _say(f"{name} {scores_of(task, examples, answers)}")


def evaluate(folder: Path, name: str, base: Path, nth: int) -> None:
    """Asks the blind test's examples, on every variant of the base, and writes the scores into file and card."""
    from training.export import write_scores

    task = task_of(name)
    examples = task.examples("held_out")
    adapter = folder / f"{name}.gguf"
    scores = []
    for variant in EVALUATED_ON:
        model = make_variant(base, variant, OUT)
        sha256 = digest_of(model)
        judge = Judge(model)
        for has_adapter, is_fitted in ((True, True), (True, False), (False, True), (False, False)):
            if variant != SHIPPED and not (has_adapter and is_fitted):
                continue
            asked = examples if is_fitted and has_adapter else examples[:NUM_BESIDE]
            given = judge.scores(task, asked, adapter if has_adapter else None, is_fitted=is_fitted)
            scores.append(Score(variant, sha256, has_adapter, is_fitted, *msgspec.structs.astuple(given)))
            _say(f"{name} {scores[-1]}")
        judge.close()
    write_scores(adapter, scores_by_base(scores))
    card = msgspec.structs.replace(
        read_card(folder, name),
        test=BlindTest(len(examples), digest_of_examples(examples), nth),
        scores=scores,
        unfit_variants=unfit_variants(scores),
        adapter_sha256=digest_of(adapter),
        num_bytes=adapter.stat().st_size,
    )
    write_card(folder, card)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
