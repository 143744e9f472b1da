"""The store of adapters: what is shared is there once, what goes leaves nothing, and a budget holds."""

import hashlib
import sqlite3
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import NoSpaceError, StoreError
from agent.eviction import FULL_USES
from agent.store import database
from agent.store.adapter_entries import NewAdapter
from agent.store.adapters import FILE, AdapterStore
from agent.weights.gguf import parse
from agent.weights.parts import joined, split
from tests.fakes.gguf_builder import GgufBuilder

BUDGET = 1 << 30
BASE = "b" * 64


def gguf(*fills: int, alignment: int = 32, trailing: bytes = b"") -> bytes:
    """A file of tensors that are filled with these numbers; equal numbers make equal tensors."""
    builder = GgufBuilder()
    builder.alignment = alignment
    builder.key("general.alignment", "u32", alignment)
    for number, fill in enumerate(fills):
        builder.tensor(f"t{number}", "f16", (50, 101), bytes([fill]) * 10_100)
    builder.trailing = trailing
    return builder.build()


def new(content: bytes, base: str = BASE) -> NewAdapter:
    """What an import hands over."""
    return NewAdapter(
        sha256=hashlib.sha256(content).hexdigest(), base_sha256=base, bytes=len(content), rank=8, activation="prompt",
        scores={base: 0.9}, parts=split(content, parse(content)),
    )  # fmt: skip


def put(
    store: AdapterStore, name: str, content: bytes, *, budget_bytes: int = BUDGET, in_use: Collection[str] = ()
) -> list[str]:
    """Imports a file under a name."""
    return store.put(name, new(content), budget_bytes=budget_bytes, now_ms=1000, in_use=in_use)


def whole(store: AdapterStore, sha256: str) -> bytes:
    """The file of an adapter."""
    pieces: list[bytes | memoryview] = []
    store.read(sha256, pieces.append)
    return b"".join(pieces)


def data_bytes(store: AdapterStore) -> int:
    """Bytes of tensors that are stored."""
    return int(store._db.execute("SELECT coalesce(sum(length(data)), 0) FROM tensor_data").fetchone()[0])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    """An empty store."""
    opened = AdapterStore(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize("alignment", [32, 64, 4096])
@pytest.mark.parametrize("trailing", [b"", b"\0" * 10, b"odd"])
def test_a_file_in_parts_is_joined_again(alignment: int, trailing: bytes) -> None:
    """Padding of every kind, also of odd bytes, comes back where it was."""
    content = bytearray(gguf(1, 2, 3, alignment=alignment, trailing=trailing))
    parts = split(content, parse(content))
    assert b"".join(joined(parts.header, parts.tensors)) == content
    assert len(parts.header) + sum(len(data) for _, data in parts.tensors) == len(content)
    second = parts.tensors[1][0]
    content[second - 1] = 7  # padding
    odd = split(content, parse(content))
    assert b"".join(joined(odd.header, odd.tensors)) == content


def test_what_adapters_share_is_there_once(store: AdapterStore) -> None:
    """Equal tensors of two adapters, and of one, take their bytes once; two names of one adapter take none."""
    put(store, "a", gguf(1, 2, 2))
    assert data_bytes(store) == 2 * 10_100
    put(store, "b", gguf(1, 3))
    assert data_bytes(store) == 3 * 10_100
    put(store, "c", gguf(1, 3))
    assert data_bytes(store) == 3 * 10_100
    a, b, c = store.entries()
    assert b.sha256 == c.sha256
    sizes = store.sizes()
    assert (sizes[a.sha256].shared, sizes[b.sha256].shared) == (10_100, 10_100)
    assert sizes[a.sha256].own + sizes[a.sha256].shared + 10_100 == a.bytes  # of the two equal ones one is saved
    store.remove("a")
    assert data_bytes(store) == 2 * 10_100
    assert store.sizes()[b.sha256].shared == 0


FILES = [gguf(1, 2), gguf(2, 3, 3), gguf(1, 4), gguf(5)]
CHANGES = st.one_of(
    st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from(FILES)),
    st.tuples(st.sampled_from(["remove", "pin", "unpin"]), st.sampled_from("abc"), st.none()),
    st.tuples(st.sampled_from(["collect", "shrink", "reopen"]), st.just(""), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(CHANGES, max_size=12), st.sets(st.sampled_from(FILES), max_size=1))
def test_any_order_of_changes_keeps_what_is_named_and_nothing_else(
    changes: list[tuple[str, str, bytes | None]], used: set[bytes]
) -> None:
    """Names mean what was put last; each adapter is whole; tensors are there once each, and only if they are needed."""
    in_use = {hashlib.sha256(content).hexdigest() for content in used}
    names: dict[str, bytes] = {}
    pinned: set[str] = set()
    unnamed: set[bytes] = set()  # that stay because they are in use
    with tempfile.TemporaryDirectory() as folder:
        store = AdapterStore(Path(folder))
        for change, name, content in changes:
            before = set(names.values())
            match change:
                case "put" if content is not None:
                    store.put(name, new(content), budget_bytes=BUDGET, now_ms=1, in_use=in_use)
                    names[name] = content
                case "remove":
                    if name in names and name not in pinned:
                        store.remove(name, in_use=in_use)
                        del names[name]
                    else:
                        with pytest.raises(StoreError, match="cannot "):
                            store.remove(name)
                case "pin" | "unpin" if name in names:
                    store.pin(name, change == "pin")
                    (pinned.add if change == "pin" else pinned.discard)(name)
                case "collect":
                    store.collect(in_use)
                case "shrink":
                    store.shrink()
                case "reopen":
                    store.close()
                    store = AdapterStore(Path(folder))
            unnamed = ((unnamed | before) - set(names.values())) & used
            assert {e.name: e.sha256 for e in store.entries()} == {n: new(c).sha256 for n, c in names.items()}
            assert {e.name for e in store.entries() if e.pinned} == pinned
            assert {e.sha256 for e in store.unnamed()} == {new(c).sha256 for c in unnamed}
            there = {*names.values(), *unnamed}
            assert data_bytes(store) == sum(map(len, {bytes(t) for c in there for _, t in new(c).parts.tensors}))
            assert all(whole(store, new(content).sha256) == content for content in there)
            assert store.problems() == []
        for name in pinned:
            store.pin(name, False)
        for name in names:
            store.remove(name)
        store.collect(())
        store.shrink()
        assert (data_bytes(store), store._db.execute("PRAGMA freelist_count").fetchone()[0]) == (0, 0)
        store.close()


def test_a_budget_holds_and_the_least_used_goes(store: AdapterStore) -> None:
    """What is pinned, in use or new stays; of the rest goes what was used least."""
    for number in range(4):
        put(store, f"n{number}", gguf(number, 100 + number))
    digests = {entry.name: entry.sha256 for entry in store.entries()}
    store.pin("n0", True)
    store.note_uses({digests["n1"]: 5}, 2000)
    budget = store.stored_bytes()
    evicted = put(store, "n4", gguf(4, 104), budget_bytes=budget, in_use={digests["n3"]})
    assert evicted == [digests["n2"]]
    assert store.stored_bytes() <= budget
    assert [entry.name for entry in store.entries()] == ["n0", "n1", "n3", "n4"]
    assert store.problems() == []


def test_what_cannot_fit_is_refused_with_numbers_and_leaves_nothing(store: AdapterStore) -> None:
    """Everything else is pinned: the import fails as a whole."""
    put(store, "a", gguf(1, 2))
    store.pin("a", True)
    budget, entries = store.stored_bytes() + 15_000, store.entries()
    with pytest.raises(NoSpaceError, match=rf"'b' of 20\d+ bytes.* allows {budget} bytes") as refused:
        put(store, "b", gguf(3, 4), budget_bytes=budget)
    assert "pinned" in str(refused.value)
    assert (store.entries(), data_bytes(store), store.problems()) == (entries, 20_200, [])


def test_a_name_that_moves_keeps_its_pin(store: AdapterStore) -> None:
    """Who pins a name means whatever it stands for."""
    put(store, "a", gguf(1))
    store.pin("a", True)
    put(store, "a", gguf(2))
    (entry,) = store.entries()
    assert (entry.sha256, entry.pinned) == (new(gguf(2)).sha256, True)
    with pytest.raises(StoreError, match="unpin it first"):
        store.remove("a")


def test_a_file_is_for_one_base(store: AdapterStore) -> None:
    """The same file for another base is refused with both digests."""
    put(store, "a", gguf(1))
    with pytest.raises(StoreError, match=f"{BASE}.*{'c' * 64}"):
        store.put("b", new(gguf(1), "c" * 64), budget_bytes=BUDGET, now_ms=1)


def test_uses_outlive_the_adapter(store: AdapterStore) -> None:
    """One that comes back is worth what it was."""
    put(store, "a", gguf(1))
    sha256 = store.entries()[0].sha256
    store.note_uses({sha256: 3}, 1000)
    store.note_uses({sha256: 1}, 2000)
    store.remove("a")
    use = store.uses()[sha256]
    assert (use.hits, use.last_use_ms) == (4, 2000)
    assert use.uses == 4
    store.note_uses({sha256: FULL_USES}, 3000)
    assert store.uses()[sha256].hits == FULL_USES + 4
    assert FULL_USES / 4 <= store.uses()[sha256].uses < FULL_USES


def test_another_process_is_noticed(store: AdapterStore, tmp_path: Path) -> None:
    """The version changes with every change, whoever makes it, and not without one."""
    first = store.version
    assert store.version == first
    other = AdapterStore(tmp_path)
    put(other, "a", gguf(1))
    second = store.version
    assert second != first
    store.pin("a", True)
    assert store.version != second
    other.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b"SQLite format 3\x00" + b"\xff" * 20_000])
def test_a_damaged_file_is_set_aside_by_the_daemon_alone(tmp_path: Path, damage: bytes) -> None:
    """A device comes up again by itself; a command says what is wrong and touches nothing."""
    (tmp_path / FILE).write_bytes(damage)
    with pytest.raises(StoreError, match=r"cannot use the database .*adapters\.db"):
        AdapterStore(tmp_path, repair=False)
    store = AdapterStore(tmp_path)
    put(store, "a", gguf(1))
    store.close()
    (aside,) = tmp_path.glob(f"{FILE}.damaged-*")
    assert aside.read_bytes() == damage


def test_a_disk_without_room_for_the_journal_takes_no_adapter(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused before anything is written, with what is needed and what there is."""
    monkeypatch.setattr("agent.store.adapters.RESERVE_BYTES", 1 << 60)
    size = store.path.stat().st_size
    with pytest.raises(NoSpaceError, match=r"cannot store the adapter 'a': \d+ bytes must be free .* and \d+ are"):
        put(store, "a", gguf(1))
    assert (store.path.stat().st_size, store.entries()) == (size, [])


def test_a_write_that_finds_no_space_changes_nothing(store: AdapterStore) -> None:
    """The log that failed is given back, and with space again the same import works."""
    put(store, "a", gguf(1))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpaceError, match=r"full; \d+ bytes are free"):
        put(store, "b", gguf(*range(50)))
    assert [entry.name for entry in store.entries()] == ["a"]
    assert store.path.with_name(FILE + "-wal").stat().st_size == 0
    store._db.execute("PRAGMA max_page_count = 1000000")
    put(store, "b", gguf(*range(50)))
    assert store.problems() == []


def test_two_that_find_no_file_make_one(tmp_path: Path) -> None:
    """The schema is made once, whoever comes first."""
    stores = [AdapterStore(tmp_path) for _ in range(3)]
    put(stores[0], "a", gguf(1))
    assert [[entry.name for entry in store.entries()] for store in stores] == [["a"]] * 3
    for store in stores:
        store.close()
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA page_size").fetchone() == (8192,)
    assert database.FILE != FILE
