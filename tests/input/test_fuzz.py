"""Whatever files hold: they are refused with a message, or every row becomes a good one or one in quarantine, once."""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import FUZZED

from tart_ray.errors import InputError, StorageError
from tart_ray.input import inspect_text, splits
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import Source, inspect_source, table_schema
from tart_ray.runs.fragments import encode_fragment
from tart_ray.storage import Storage
from tart_ray.tables.hive import partition_rules, partitions
from tart_ray.tables.keys import bucket_of
from tart_ray.tables.parquet import parquet_bytes

MODULES = {"SAMPLE_BYTES": inspect_text, "SPLIT_BYTES": splits}
Place = tuple[str, int, int]  # file, position, item


@contextmanager
def empty_folder(**settings: int) -> Iterator[Path]:
    """A directory, and another sample and other splits as long as it is there."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(MODULES[name], name, value)
        yield Path(folder)


def read(folder: Path, role: Any) -> tuple[Source, pa.Table, list[dict[str, Any]]] | None:
    """All good and all bad rows as later stages get them; None where the input was refused."""
    storage = Storage()
    try:
        source = inspect_source(storage, str(folder), role)
    except (InputError, StorageError) as error:
        message = str(error)
        assert str(folder) in message
        return None
    quarantine = Quarantine("read")
    tables = [table_schema(source).empty_table()]
    for split in source.splits:
        tables += read_split(storage, source, split, quarantine)
    good = pa.concat_tables(tables)
    good.validate(full=True)
    key = "doc_id" if role == "corpus" else "query_id"
    encode_fragment(good, bucket_of(good[key], 3), 3)
    parquet_bytes(good)
    parquet_bytes(quarantine.table())
    return source, good, quarantine.table().to_pylist()


def places(source: Source, good: pa.Table, bad: list[dict[str, Any]]) -> Counter[Place]:
    """Where every row came from."""
    kept = [(source.origin(row["_split"]), row) for row in good.select(["_split", "_position", "_item"]).to_pylist()]
    found = Counter((Path(url).name, row["_position"], row["_item"]) for url, row in kept)
    return found + Counter((Path(row["source"]).name, row["position"], row["item"]) for row in bad)


# Text

FINITE = st.floats(allow_nan=False, allow_infinity=False)  # the others are no JSON
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FINITE | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CANDIDATE = {"doc_id": "d", "text": "t", "title": "T", "score": 1.0}
CANDIDATES = st.lists(
    st.dictionaries(st.sampled_from([*CANDIDATE, "x"]), VALUES).map(lambda v: {**CANDIDATE, **v}) | VALUES, max_size=3
)
PAIR = {"query_id": "q", "query": "?", "doc_id": "d", "text": "t"}
LIST = {"query_id": "q", "query": "?", "candidates": [CANDIDATE]}
NAMES = st.sampled_from([*PAIR, "title", "instruction", "score", "x", "_id", "id", "", "_split"])
MARK = b"\xef\xbb\xbf"


def record(base: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A line of JSON with any values in any fields of ``base``."""
    changed = st.dictionaries(NAMES, VALUES, max_size=4).map(lambda values: {**base, **values})
    if "candidates" in base:
        changed = st.tuples(changed, CANDIDATES | VALUES).map(lambda two: {**two[0], "candidates": two[1]})
    return st.tuples(changed, st.booleans()).map(lambda two: json.dumps(two[0], ensure_ascii=two[1]).encode())


CELLS = st.binary(max_size=6) | st.sampled_from([b"q1", b"1", b"-0.5", b"nan", b"1e999", "ü".encode(), b"\x85"])
ROWS_OF_CELLS = st.tuples(st.lists(CELLS, max_size=7), st.sampled_from([b"\t", b" ", b"  "])).map(
    lambda two: two[1].join(two[0])
)
GOOD_LINES = {
    ("a.jsonl", "candidates"): [json.dumps(PAIR).encode(), json.dumps(LIST).encode()],
    ("a.jsonl", "queries"): [b'{"_id": "q", "text": "?"}'],
    ("a.jsonl", "corpus"): [b'{"_id": 1, "text": "?", "title": null}'],
    ("a.tsv", "queries"): [b"q\t?"],
    ("a.tsv", "corpus"): [b"d\tt"],
    ("a.trec", "candidates"): [b"q Q0 d 1 2.5 x"],
}


@FUZZED
@given(st.data())
@pytest.mark.parametrize(("name", "role"), list(GOOD_LINES))
def test_fuzz_lines(name: str, role: str, data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(GOOD_LINES[name, role]))
    other = record(orjson.loads(first)) if name == "a.jsonl" else ROWS_OF_CELLS
    lines = data.draw(st.lists(st.binary(max_size=30) | other, max_size=6))
    lines.insert(data.draw(st.integers(0, len(lines))), first)
    content = data.draw(st.sampled_from([b"", MARK])) + data.draw(st.sampled_from([b"\n", b"\r\n"])).join(lines)
    sample, split = data.draw(st.sampled_from([1, 1 << 18])), data.draw(st.integers(1, len(content) + 1))
    with empty_folder(SAMPLE_BYTES=sample, SPLIT_BYTES=split) as folder:
        (folder / name).write_bytes(content)
        found = read(folder, role)
    if found is None:
        return
    source, good, bad = found
    expected, offset = Counter[Place](), 0
    wanted = {}
    for whole in content.split(b"\n"):
        line = whole.rstrip(b"\r").removeprefix(MARK if offset == 0 else b"")
        if line.strip():
            expected.update((name, offset, item) for item in range(items(line) if source.shape == "lists" else 1))
            wanted[offset] = line
        offset += len(whole) + 1
    assert places(source, good, bad) == expected
    assert all(row["raw"] == wanted[row["position"]] for row in bad if row["row"] is None)


def items(line: bytes) -> int:
    """Candidates in a line of JSON; one that has none is one row."""
    try:
        listed = orjson.loads(line)["candidates"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return 1
    return len(listed) if isinstance(listed, list) and listed else 1


# Parquet

TEXTS = ["", " ", "q", "d1", "é", "\0", "a\nb", "🌊" * 3, "7", "\u2003", "x" * 300]
FORGED = pa.array([b"ok", b"\xff", b"\xc3"], pa.binary())


def array_of(kind: pa.DataType, length: int, draw: random.Random) -> pa.Array:
    """Any values of a type, some null, some at the ends of what it can hold."""
    if pa.types.is_dictionary(kind):
        return array_of(kind.value_type, length, draw).dictionary_encode()
    mask = pa.array([draw.random() < 0.15 for _ in range(length)], pa.bool_())
    if pa.types.is_struct(kind):
        arrays = [array_of(field.type, length, draw) for field in kind]
        return pa.StructArray.from_arrays(arrays, fields=list(kind), mask=mask)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = [0]
        for _ in range(length):
            ends.append(ends[-1] + draw.choice([0, 1, 1, 2, 3]))
        if pa.types.is_map(kind):
            keys = pa.array([str(i) for i in range(ends[-1])], pa.string())
            return pa.MapArray.from_arrays(pa.array(ends, pa.int32()), keys, array_of(kind.item_type, ends[-1], draw))
        make, of = (pa.ListArray, pa.int32()) if pa.types.is_list(kind) else (pa.LargeListArray, pa.int64())
        return make.from_arrays(pa.array(ends, of), array_of(kind.value_type, ends[-1], draw), mask=mask)
    if pa.types.is_fixed_size_list(kind):
        inner = array_of(kind.value_type, length * kind.list_size, draw)
        return pa.FixedSizeListArray.from_arrays(inner, kind.list_size)
    is_text = pa.types.is_string(kind)
    if is_text and draw.random() < 0.1:
        forged = FORGED.take(pa.array([draw.randrange(3) for _ in range(length)], pa.int64()))
        return pa.Array.from_buffers(kind, length, forged.buffers())
    return pa.array([None if null else value_of(kind, draw) for null in mask.to_pylist()], storage_of(kind)).cast(
        kind, safe=False
    )


def storage_of(kind: pa.DataType) -> pa.DataType:
    """The type of plain numbers that a type of dates and times is made from."""
    if pa.types.is_temporal(kind):
        return pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()
    return kind


def value_of(kind: pa.DataType, draw: random.Random) -> Any:
    if pa.types.is_time(kind):
        return draw.randrange(86_400)
    if pa.types.is_date64(kind):
        return draw.choice([0, 1, -719_163, 2**31 - 1]) * 86_400_000
    if pa.types.is_temporal(kind):
        bits = storage_of(kind).bit_width - 1
        return draw.choice([0, -1, 1_700_000_000, 2**bits - 1, -(2**bits), draw.randrange(-(2**bits), 2**bits)])
    if pa.types.is_integer(kind):
        signed, bits = pa.types.is_signed_integer(kind), kind.bit_width
        least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return draw.choice([0, 1, least, most])
    if pa.types.is_decimal(kind):
        return draw.choice([0, 1, -1])
    if pa.types.is_floating(kind):
        return draw.choice([0.0, -0.5, 1.0, float("nan"), float("inf")])
    if pa.types.is_boolean(kind):
        return draw.random() < 0.5
    if pa.types.is_fixed_size_binary(kind):
        return draw.randbytes(kind.byte_width)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return draw.randbytes(draw.randrange(4))
    return None if pa.types.is_null(kind) else draw.choice(TEXTS)


TEXT_TYPES = [
    pa.string(),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.null(),
]
WHOLE_TYPES = [pa.int8(), pa.int64(), pa.uint64(), pa.dictionary(pa.int32(), pa.int64())]
SCORE_TYPES = [pa.float64(), pa.float32(), pa.float16(), pa.int32(), pa.uint64(), pa.decimal128(9, 2), pa.null()]
MOMENTS = [pa.timestamp(unit, zone) for unit in ("ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin", "+05:30")]
MOMENTS += [pa.timestamp("us", "Mars/Phobos"), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns")]
FLAT_TYPES = [
    *TEXT_TYPES, *WHOLE_TYPES, *SCORE_TYPES, *MOMENTS, pa.bool_(), pa.binary(), pa.large_binary(), pa.binary(3),
    pa.decimal256(50, 3), pa.duration("ns"), pa.duration("s"), pa.dictionary(pa.int32(), pa.timestamp("us")),
]  # fmt: skip
ANY_TYPE = st.recursive(
    st.sampled_from(FLAT_TYPES),
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(pa.large_list)
        # pyarrow 26 itself makes invalid arrays of fixed size lists of the type null, which no one has
        | inner.filter(lambda kind: "null" not in str(kind)).map(lambda kind: pa.list_(kind, 2))
        | inner.map(lambda kind: pa.map_(pa.string(), kind))
        | st.dictionaries(st.sampled_from("ab"), inner, min_size=1).map(lambda kinds: pa.struct(list(kinds.items())))
    ),
    max_leaves=3,
)


Types = st.SearchStrategy[list[pa.DataType]]


def one_of(*families: list[pa.DataType]) -> Types:
    """Types that go together in a column, mostly; at times any."""
    family = st.sampled_from([family for family in families for _ in range(40 // len(families))] + [[]])
    return family.flatmap(lambda kinds: st.lists(st.sampled_from(kinds) if kinds else ANY_TYPE, min_size=1, max_size=3))


ANYTHING = st.lists(ANY_TYPE, min_size=1, max_size=1) | st.lists(st.sampled_from(FLAT_TYPES), min_size=1, max_size=2)
TEXT, ID, SCORE = one_of(TEXT_TYPES), one_of(TEXT_TYPES, WHOLE_TYPES), one_of(SCORE_TYPES)
OF_A_CANDIDATE = {"doc_id": ID, "text": TEXT, "title": TEXT, "score": SCORE}


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[pa.DataType]:
    names = ["doc_id", *draw(st.lists(st.sampled_from(["text", "title", "score", "x"]), unique=True))]
    item = pa.struct([(name, draw(OF_A_CANDIDATE.get(name, ANYTHING))[0]) for name in names])
    smaller = pa.struct(list(item)[:-1] or list(item))
    return [draw(st.sampled_from([pa.list_, pa.large_list]))(kind) for kind in draw(st.permutations([item, smaller]))]


COLUMNS = {
    "query_id": ID, "query": TEXT, "doc_id": ID, "text": TEXT, "title": TEXT, "instruction": TEXT, "score": SCORE,
    "x": ANYTHING, "y": ANYTHING,
}  # fmt: skip
LISTED = {
    "query_id": ID, "query": TEXT, "x": ANYTHING,
    "candidates": candidate_lists() | candidate_lists() | one_of([pa.null()]),
}  # fmt: skip


@st.composite
def parquet_files(draw: st.DrawFn) -> list[tuple[pa.Table, dict[str, Any]]]:
    """Tables whose columns have one of few types each, and how they are written."""
    columns = draw(st.sampled_from([COLUMNS, COLUMNS, LISTED]))
    kinds = {name: draw(types) for name, types in columns.items()}
    files = []
    for _ in range(draw(st.integers(1, 3))):
        needed = {"query_id", "doc_id", "candidates"} & columns.keys()
        names = [name for name in columns if name in needed or draw(st.integers(0, 3))]
        length, values = draw(st.integers(0, 6)), random.Random(draw(st.integers(0, 2**32)))
        arrays = [array_of(draw(st.sampled_from(kinds[name])), length, values) for name in names]
        options = {"row_group_size": draw(st.integers(1, 6)), "use_dictionary": draw(st.booleans())}
        files.append((pa.table(dict(zip(names, arrays, strict=True))), options))
    return files


def expected_places(files: dict[str, pa.Table], shape: str) -> Counter[Place]:
    """Every row once, and every item of a list of candidates."""
    found = Counter[Place]()
    for name, table in files.items():
        lengths = [1] * len(table)
        if shape == "lists" and "candidates" in table.schema.names:
            column = table["candidates"]
            is_list = not pa.types.is_null(column.type)
            lengths = [max(n or 0, 1) for n in pa.compute.list_value_length(column).to_pylist()] if is_list else lengths
        found.update((name, row, item) for row, count in enumerate(lengths) for item in range(count))
    return found


@FUZZED
@given(parquet_files(), st.sampled_from([1, 1 << 20]), st.sampled_from(["candidates", "corpus"]))
def test_fuzz_parquet(files: list[tuple[pa.Table, dict[str, Any]]], split: int, role: str) -> None:
    written = {}
    with empty_folder(SPLIT_BYTES=split) as folder:
        for number, (table, options) in enumerate(files):
            try:
                pq.write_table(table, folder / f"{number}.parquet", **options)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # Parquet cannot hold such values
                (folder / f"{number}.parquet").unlink(missing_ok=True)
            else:
                written[f"{number}.parquet"] = table
        listed = any("candidates" in table.schema.names for table in written.values())
        found = read(folder, "candidates" if listed else role)
    if found is not None:
        source, good, bad = found
        unread = {(Path(row["source"]).name, row["position"]) for row in bad if row["reason"].startswith("row group ")}
        expected = expected_places(written, source.shape)
        assert places(source, good, bad) == {p: 1 for p in expected if p[2] == 0 or p[:2] not in unread}


@FUZZED
@given(st.data(), st.booleans(), st.sampled_from(["none", "snappy", "zstd"]))
def test_fuzz_damaged_row_groups(data: st.DataObject, checksums: bool, compression: str) -> None:
    rows = [
        {**PAIR, "doc_id": str(i), "text": f"t{i % 3}", "tags": [{"a": str(i), "b": i}] * (i % 3)} for i in range(60)
    ]
    table = pa.Table.from_pylist(rows)
    table = table.append_column("kind", pa.array([f"k{i % 5}" for i in range(60)]).dictionary_encode())
    with empty_folder() as folder:
        file = folder / "a.parquet"
        pq.write_table(table, file, row_group_size=20, compression=compression, write_page_checksum=checksums)
        content = bytearray(file.read_bytes())
        end = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
        at = data.draw(st.integers(4, end - 1))
        noise = data.draw(st.binary(min_size=1, max_size=40))[: end - at]
        content[at : at + len(noise)] = noise
        file.write_bytes(content)
        found = read(folder, "candidates")
    assert found is not None
    source, good, bad = found
    if checksums:  # without them a changed value may look like any other
        assert places(source, good, bad) == Counter((file.name, row, 0) for row in range(60))
        kept = good.drop_columns(["_split", "_item"]).to_pylist()
        whole = table.to_pylist()
        assert kept == [{**row, "_position": row["_position"]} | whole[row["_position"]] for row in kept]
    else:
        assert {row for _, row, _ in places(source, good, bad)} == {*range(60)}


# Partitions

PARTITION_TYPES = [pa.string(), pa.large_string(), *WHOLE_TYPES[:3], pa.bool_(), pa.date32(), *MOMENTS[:12]]


@FUZZED
@given(st.lists(st.sampled_from(PARTITION_TYPES), min_size=1, max_size=2), st.lists(st.text(max_size=99)), st.randoms())
def test_fuzz_partitions_read_back(kinds: list[pa.DataType], texts: list[str], draw: random.Random) -> None:
    length = draw.randrange(8)
    columns = {f"k{i}": array_of(kind, length, random.Random(draw.randrange(2**32))) for i, kind in enumerate(kinds)}
    for name, column in columns.items():
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            columns[name] = pa.array([draw.choice([*texts, *TEXTS]) for _ in range(length)], column.type)
    table = pa.table({**columns, "n": pa.array(range(length), pa.int64())})
    bad = {row for mask, _ in partition_rules(table, list(columns)) for row in mask.nonzero()[0].tolist()}
    good = table.filter(pa.array([row not in bad for row in range(length)], pa.bool_()))
    with empty_folder() as folder:
        for directories, part in partitions(good, list(columns)):
            target = folder.joinpath(*directories)
            target.mkdir(parents=True)
            pq.write_table(part, target / "0.parquet")
        schema = pa.schema([(name, column.type) for name, column in columns.items()])
        dataset = ds.dataset(folder, format="parquet", partitioning=ds.partitioning(schema, flavor="hive"))
        if len(good):
            assert dataset.to_table(columns=good.schema.names).sort_by("n").equals(good.combine_chunks())
