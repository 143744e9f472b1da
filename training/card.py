"""Model cards: what an adapter was trained on and how, and what it scored; JSON for programs, a page for people."""

from pathlib import Path

import msgspec

from agent.fitness import unfit_bases

BLIND = """\
A blind test: {test.num} examples whose words and templates were written by somebody who had seen no list of training.
Nobody read the answers, and choices during training were made by other examples (`dev`). The test's examples were asked
of {adapters} of this task, this one included."""
NOT_TESTED = "Not tested yet."
SHARED = ", with the frozen A matrices that the family shares, so that only B was trained"
PAGE = """\
# {card.name}

A LoRA of rank {training.rank} on all linear layers of {card.base}{shared}. {card.task}.
{card.num_bytes:,} bytes, {card.license}. It acts from the last user turn on.

## Use

Response format: `{card.schema}`. First turn, word for word:

    {card.system}

## Scores

{test}

*Fitted*: the schema was given as response format. *Right*: what counts is right (`label` in `{data.source}`). *Exact*:
all of it is. All answers are greedy, in the engine of this project.

| base | answered by | fitted | asked | right | exact | valid |
|---|---|---|---|---|---|---|
{scores}

Unfit (more than 2 points below its best, and refused by nodes): {unfit}.

## Training

{data.num_train} examples from `{data.grammar}`, seed "{data.seed}". {training.steps} steps of {training.batch},
learning rate {rate:g}, seed {training.seed}, on {variants} in turn.
The answers' loss fell from {training.first_loss:.2f} to {training.last_loss:.3f}.
{minutes:.0f} minutes of processor time, that of {training.threads} threads added up; {versions}.
Largest difference of a logit between transformers and llama.cpp, both in 32 bits: {card.logit_difference:.2g}.

## Digests (SHA-256)

- adapter `{card.adapter_sha256}`
- base `{card.base_sha256}`
- training examples `{data.train_sha256}`{digests}

## Limits

English, and only what the grammar can say: anything else gets an answer of the same form that may be wrong. With
another first turn, another base or another chat template nothing is promised.
"""


class Data(msgspec.Struct, frozen=True):
    """The examples, which `seed` and the grammar's files make again; digests as `training.task.digest_of_examples`."""

    source: str
    grammar: str
    seed: str
    num_train: int
    train_sha256: str


class BlindTest(msgspec.Struct, frozen=True):
    """The held-out examples. `nth`: how many adapters of the task were scored on them, this one included."""

    num: int
    sha256: str
    nth: int


class Training(msgspec.Struct, frozen=True):
    """How it was trained. `cpu_s` is processor time, that of all threads added up."""

    steps: int
    batch: int
    rank: int
    alpha: float
    learning_rate: float
    seed: int
    is_a_shared: bool
    variants: list[str]
    first_loss: float
    last_loss: float
    cpu_s: float
    threads: int
    versions: dict[str, str]


class Score(msgspec.Struct, frozen=True):
    """Shares of `num` held-out examples; `is_fitted`: the engine let only what fits the schema be said."""

    variant: str
    variant_sha256: str
    has_adapter: bool
    is_fitted: bool
    num: int
    valid: float
    exact: float
    right: float


class Card(msgspec.Struct, frozen=True):
    """A model card. `logit_difference` is the largest between transformers and llama.cpp, both in 32 bits."""

    name: str
    task: str
    adapter_sha256: str
    num_bytes: int
    license: str
    base: str
    base_sha256: str
    activation: str
    system: str
    schema: str
    data: Data
    training: Training
    logit_difference: float
    test: BlindTest | None = None
    scores: list[Score] = []
    unfit_variants: list[str] = []


def scores_by_base(scores: list[Score]) -> dict[str, float]:
    """What the adapter's file says of its test: the share of right answers with the schema, by the base's digest."""
    return {score.variant_sha256: score.right for score in scores if score.has_adapter and score.is_fitted}


def unfit_variants(scores: list[Score]) -> list[str]:
    """Variants of the base that nodes will not use the adapter with."""
    unfit = unfit_bases(scores_by_base(scores))
    return [variant for variant, sha256 in _variants(scores).items() if sha256 in unfit]


def read_card(folder: Path, name: str) -> Card:
    """The card of an adapter."""
    return msgspec.json.decode((folder / f"{name}.json").read_bytes(), type=Card)


def write_card(folder: Path, card: Card) -> None:
    """Writes the card of an adapter, in both forms."""
    text = msgspec.json.format(msgspec.json.encode(card), indent=2)
    (folder / f"{card.name}.json").write_bytes(text + b"\n")
    (folder / f"{card.name}.md").write_text(page_of(card), encoding="utf-8")


def page_of(card: Card) -> str:
    """The card as Markdown."""
    training, test = card.training, card.test
    tested = {} if test is None else {"held-out examples": test.sha256}
    return PAGE.format(
        card=card,
        data=card.data,
        training=training,
        shared=SHARED if training.is_a_shared else "",
        test=BLIND.format(test=test, adapters=_counted(test.nth)) if test else NOT_TESTED,
        scores="\n".join(_row(score) for score in card.scores),
        unfit=", ".join(card.unfit_variants) or "none",
        variants=" and ".join(training.variants),
        rate=training.learning_rate,
        minutes=training.cpu_s / 60,
        versions=", ".join(f"{package} {version}" for package, version in training.versions.items()),
        digests="".join(f"\n- {name} `{digest}`" for name, digest in (tested | _variants(card.scores)).items()),
    )


def _counted(adapters: int) -> str:
    return "one adapter" if adapters == 1 else f"{adapters} adapters"


def _row(score: Score) -> str:
    who = "adapter" if score.has_adapter else "base alone"
    fitted = "yes" if score.is_fitted else "no"
    shares = " | ".join(f"{share:.1%}" for share in (score.right, score.exact, score.valid))
    return f"| {score.variant} | {who} | {fitted} | {score.num} | {shares} |"


def _variants(scores: list[Score]) -> dict[str, str]:
    return {score.variant: score.variant_sha256 for score in scores}
