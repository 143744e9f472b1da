"""`python -m training`: trains an adapter of this project again, or scores one.

    python -m training home-actions [--out FOLDER] [--shared-a]
    python -m training log-triage [--out FOLDER] [--shared-a]
    python -m training evaluate NAME … [--out FOLDER]

What is written: NAME.gguf, the schema for its requests, and its card (NAME.json, NAME.md). Variants of the base model
are made beside them once.
"""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import msgspec

from agent.models import DEFAULT_FILE, digest_of
from training.card import Card, Data, Score, Training, read_card, scores_by_base, unfit_variants, write_card
from training.evaluate import Judge
from training.task import Task, digest_of_examples
from training.tasks import SHARED_A, TASKS, task_of
from training.variants import SHIPPED, make_variant

BASE = Path(".shoal/models") / DEFAULT_FILE
OUT = Path("build/training")
TRAINED_ON = (SHIPPED, "Q4_0")
EVALUATED_ON = (SHIPPED, "Q4_0", "Q8_0")
CHECKED_EXAMPLES = 3


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train and score this project's adapters.")
    parser.add_argument("command", choices=[*TASKS, "evaluate"], help="the adapter to train, or: evaluate")
    parser.add_argument("names", nargs="*", help="evaluate: names of adapters in the folder")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the folder to write to ({OUT})")
    parser.add_argument("--shared-a", action="store_true", help="train B alone; A is the same for all adapters")
    parser.add_argument("--threads", type=int, default=2, help="as many as there are idle cores (2)")
    given = parser.parse_args()
    base = BASE.resolve()
    if not base.is_file():
        parser.exit(2, f"cannot find the base model {BASE}: run `python3 bootstrap.py model`\n")
    OUT.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.command == "evaluate":
        for name in given.names:
            evaluate(given.out, name, base)
    else:
        train(given.out, TASKS[given.command], base, shared_a=given.shared_a, threads=given.threads)
    return 0


def train(folder: Path, task: Task, base: Path, *, shared_a: bool, threads: int) -> None:
    """Trains an adapter, writes its file, schema and card, and compares it with llama.cpp."""
    from training import loop  # PyTorch
    from training.check import logit_difference
    from training.export import write_adapter
    from training.tokens import lessons_of

    name = task.name + (SHARED_A if shared_a else "")
    examples, held_out = task.examples("train"), task.examples("held_out")
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
    difference = logit_difference(task, held_out[:CHECKED_EXAMPLES], base_f32, path, trainer.logits)
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
            num_held_out=len(held_out),
            held_out_sha256=digest_of_examples(held_out),
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


def evaluate(folder: Path, name: str, base: Path) -> None:
    """Asks the held-out examples, on every variant of the base, and writes the scores into file and card."""
    from training.export import write_scores

    task = task_of(name)
    examples = task.examples("held_out")
    adapter = folder / f"{name}.gguf"
    scores = []
    for variant in EVALUATED_ON:
        model = make_variant(base, variant, OUT)
        sha256 = digest_of(model)
        judge = Judge(model)
        for has_adapter, is_fitted in ((False, False), (False, True), (True, False), (True, True)):
            if variant != SHIPPED and not (has_adapter and is_fitted):
                continue
            given = judge.scores(task, examples, adapter if has_adapter else None, is_fitted=is_fitted)
            scores.append(Score(variant, sha256, has_adapter, is_fitted, *msgspec.structs.astuple(given)))
            _say(f"{name} {scores[-1]}")
        judge.close()
    write_scores(adapter, scores_by_base(scores))
    card = msgspec.structs.replace(
        read_card(folder, name),
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
