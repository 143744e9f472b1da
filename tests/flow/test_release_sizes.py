"""What an update of the default model costs: the segments of the real file, packed with the real compressor."""

from pathlib import Path

import pytest

from agent.update.held import places_of
from agent.update.plan import Plan
from agent.weights.gguf import parse
from agent.weights.gguf_writer import Kind, key
from contract.release import Release, encode_release
from fleet.releases.objects import Objects
from tests.fakes.finetune import merge
from tests.fakes.releases import assemble, make_release

ADAPTERS = Path("training/adapters")
MERGED_LAYERS = range(9, 12)

pytestmark = pytest.mark.timeout(600)  # compressing 100 MB takes 13 s on an idle core, and the core may be busy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the objects and the files of this module are."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture(scope="module")
def base(model: Path, folder: Path) -> Release:
    """The default model as a release."""
    return make_release(model, Objects(folder))


def update(content: bytes, base: Release, model: Path, folder: Path) -> tuple[Release, Plan]:
    """Publishes a next version and has a node that holds the base follow it."""
    path = folder / "next.gguf"
    path.write_bytes(content)
    release = make_release(path, Objects(folder), [base], version="2")
    plan = assemble(release, folder / "made.gguf", Objects(folder), places_of(base, model))
    assert (folder / "made.gguf").read_bytes() == content
    return release, plan


def test_the_default_model_is_assembled_from_its_objects(model: Path, base: Release, folder: Path) -> None:
    """Byte for byte, from objects that are smaller than the file, by a manifest of less than a thousandth."""
    plan = assemble(base, folder / "copy.gguf", Objects(folder))
    assert (folder / "copy.gguf").read_bytes() == model.read_bytes()
    assert plan.fetch_bytes < 0.95 * base.file.bytes
    assert len(encode_release(base)) < 0.001 * base.file.bytes


def test_an_edit_of_the_metadata_costs_next_to_nothing(model: Path, base: Release, folder: Path) -> None:
    """Another chat template, of another length, so that every tensor moves."""
    raw = model.read_bytes()
    file = parse(raw)
    start, end = file.spans["tokenizer.chat_template"]
    name = "tokenizer.chat_template"
    value = key(name, Kind.STRING, "{{ messages }}" * 9)[8 + len(name) :]
    first = min(tensor.offset for tensor in file.tensors.values())
    table = raw[:start] + value + raw[end:first].rstrip(b"\0")
    last = next(reversed(file.tensors.values()))
    while not table.endswith((last.offset - first).to_bytes(8, "little")):  # the zeros at its end are not padding
        table += b"\0"
    _, plan = update(table + bytes(-len(table) % 32) + raw[first:], base, model, folder)
    assert plan.fetch_bytes < 0.0002 * base.file.bytes


@pytest.mark.parametrize("name", ["home-actions", "log-triage"])
def test_a_fine_tuned_model_costs_a_part_of_itself(name: str, model: Path, base: Release, folder: Path) -> None:
    """An adapter merged into three of thirty layers, in the base's number format.

    Ten times of it, which all layers together cost, is at most a quarter of the file. `python -m bench delivery` merges
    into all of them.
    """
    content = merge(model.read_bytes(), (ADAPTERS / f"{name}.gguf").read_bytes(), layers=MERGED_LAYERS)
    release, plan = update(content, base, model, folder)
    fetched = [step for step in plan.steps if step.source]
    assert {step.segment.name.split(".")[1] for step in fetched} == {str(layer) for layer in MERGED_LAYERS}
    layers = {segment.name.split(".")[1] for segment in release.segments if segment.name.startswith("blk.")}
    assert plan.fetch_bytes * len(layers) / len(MERGED_LAYERS) <= 0.25 * release.file.bytes
