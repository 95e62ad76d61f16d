"""Input files as they come: damaged, of differing schemas, with odd ids. Every row of each is accounted for."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.cheap import load_cheap_scorer
from support.job_files import read_output, report_of, write_jsonl

from tart_ray.config import StorageConfig
from tart_ray.errors import ExitCode, InputError
from tart_ray.input.quarantine import Quarantine
from tart_ray.input.readers import read_split
from tart_ray.input.sources import inspect_source
from tart_ray.reranking.job import rerank
from tart_ray.storage import Storage

pytestmark = pytest.mark.usefixtures("cluster")

ALL_MAY_BE_BAD = {"max_quarantined_fraction": 1.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the configuration expects candidates."""
    (tmp_path / "candidates").mkdir()
    return tmp_path / "candidates"


def pair(query: Any, document: Any, **more: Any) -> dict[str, Any]:
    return {"query_id": query, "query": f"query {query}", "doc_id": document, "text": f"text {document}", **more}


def pairs(query: Any, count: int, **more: Any) -> list[dict[str, Any]]:
    return [pair(query, f"d{i}", **more) for i in range(count)]


def ids(rows: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((str(row["query_id"]), str(row["doc_id"])) for row in rows)


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)


def damage(path: Path, group: int) -> None:
    """Overwrite the column chunks of one row group; the footer stays."""
    data, footer = bytearray(path.read_bytes()), pq.read_metadata(path)
    for i in range(footer.num_columns):
        column = footer.row_group(group).column(i)
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)


def assert_accounted_for(run: Path, expected: Counter[Any], bad: list[tuple[str, int, str]], duplicates: int) -> None:
    """The output holds each pair once, quarantine each bad row with file, position and reason, and counts say so."""
    assert ids(read_output(run)) == expected
    records = read_output(run, "quarantine") if (run / "quarantine").exists() else []
    found = [(Path(row["source"]).name, row["position"], row["reason"].split(": ", 1)[0]) for row in records]
    assert sorted(found) == sorted(bad)
    counts = report_of(run)["counts"]
    assert {name: counts[name] for name in ("read", "scored", "duplicates", "quarantined", "written")} == {
        "read": expected.total() + duplicates + len(bad),
        "scored": expected.total(),
        "duplicates": duplicates,
        "quarantined": len(bad),
        "written": expected.total(),
    }
    assert (run / "_SUCCESS").exists()


def test_parquet_files_of_differing_schemas_and_one_damaged_row_group(
    tmp_path: Path, folder: Path, make_config: Any
) -> None:
    plain = pairs("q0", 6, title="a title", language="en", n=1)
    write_parquet(folder / "a-plain.parquet", [*plain, plain[2], {**pair("q0", "bad"), "query": None}])
    other = pairs("q1", 5, extra=[1, 2])  # no title, no language; a column more
    table = pa.Table.from_pylist(other).append_column("language", pa.nulls(5)).append_column("title", pa.nulls(5))
    pq.write_table(table, folder / "b-other.parquet")
    pq.write_table(pa.Table.from_pylist(plain).slice(0, 0), folder / "c-empty.parquet")
    broken = pairs("q2", 9, language=None, n=2)
    write_parquet(folder / "d-damaged.parquet", broken, row_group_size=3)
    damage(folder / "d-damaged.parquet", 1)
    numbers = [pair("q3", "d0", n=2**53 + 1), pair("q3", "d1", n=7)]
    write_parquet(folder / "e-wide.parquet", numbers)
    write_parquet(folder / "f-floats.parquet", [pair("q3", "d2", n=0.5)])
    code = rerank(make_config(limits=ALL_MAY_BE_BAD), load=load_cheap_scorer)
    assert code == ExitCode.DONE
    good = [*plain, *other, *broken[:3], *broken[6:], numbers[1], pair("q3", "d2")]
    bad = [
        ("a-plain.parquet", 7, "query is null"),
        *(("d-damaged.parquet", row, "row group 1 cannot be read") for row in (3, 4, 5)),
        ("e-wide.parquet", 0, "n does not fit double, which all files share"),
    ]
    assert_accounted_for(tmp_path / "run", ids(good), bad, duplicates=1)
    output = {(row["query_id"], row["doc_id"]): row for row in read_output(tmp_path / "run")}
    assert [output["q0", "d0"][name] for name in ("language", "n", "extra")] == ["en", 1.0, None]
    assert [output["q1", "d0"][name] for name in ("language", "n", "extra")] == [None, None, [1, 2]]
    assert [output["q3", "d1"][name] for name in ("language", "n", "extra")] == [None, 7.0, None]


def test_lines_of_every_kind(tmp_path: Path, folder: Path, make_config: Any) -> None:
    mixed = [pair(7, 1), pair("7", "2"), pair(7, 2**64 - 1), pair(-1, "é/ü"), pair(0, 0)]
    huge = pair("q", "huge") | {"text": "wing flow heat " * 700_000}
    assert len(huge["text"]) > 10_000_000
    wrong = [pair("q", 1.5), pair(True, "d"), {**pair("q", "e"), "text": " "}]
    lines = [json.dumps(row).encode() for row in (*mixed, huge, pair("7", 1), *wrong)]
    lines += [b'{"query_id": "q", "query": "?", "doc_id": "\xff", "text": "t"}', b'{"query_id": "q", "query": "?", "d']
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(json.dumps(pair("q", "packed")).encode()))
    assert rerank(make_config(limits=ALL_MAY_BE_BAD), load=load_cheap_scorer) == ExitCode.DONE
    starts = [3 + sum(len(line) + 1 for line in lines[:i]) for i in range(len(lines))]
    reasons = ["doc_id", "query_id", "empty document", "undecodable line", "undecodable line"]
    bad = [("a.jsonl", start, reason) for start, reason in zip(starts[7:], reasons, strict=True)]
    assert_accounted_for(tmp_path / "run", ids([*mixed, huge, pair("q", "packed")]), bad, duplicates=1)
    records = {row["position"]: row for row in read_output(tmp_path / "run", "quarantine")}
    assert [records[start]["reason"] for start in starts[7:9]] == [
        "doc_id: got float, expected string or integer",
        "query_id: got bool, expected string or integer",
    ]
    assert [records[start]["raw"] for start in starts[10:]] == lines[10:]


def test_lists_of_parquet_with_integer_ids_and_without_candidates(
    tmp_path: Path, folder: Path, make_config: Any
) -> None:
    def listed(query: int, *documents: int | None) -> dict[str, Any]:
        found = [{"doc_id": d, "text": f"text {d}", "score": 1.0} for d in documents]
        return {"query_id": query, "query": f"query {query}", "candidates": found}

    rows = [listed(1, 10, 11, 12), listed(2), listed(3, 10, None, 10), {**listed(4), "candidates": None}]
    write_parquet(folder / "a.parquet", [*rows, *(listed(query, 1, 2) for query in range(5, 11))], row_group_size=5)
    damage(folder / "a.parquet", 1)
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), folder / "b.parquet")
    pq.write_table(pa.table({"query_id": [11], "query": ["?"], "candidates": pa.nulls(1)}), folder / "c.parquet")
    assert rerank(make_config(limits=ALL_MAY_BE_BAD), load=load_cheap_scorer) == ExitCode.DONE
    good = Counter([("1", "10"), ("1", "11"), ("1", "12"), ("3", "10"), ("5", "1"), ("5", "2")])
    bad = [
        ("a.parquet", 1, "no candidates"), ("a.parquet", 3, "no candidates"), ("a.parquet", 2, "doc_id is null"),
        ("c.parquet", 0, "no candidates"), *(("a.parquet", row, "row group 1 cannot be read") for row in range(5, 10)),
    ]  # fmt: skip
    assert_accounted_for(tmp_path / "run", good, bad, duplicates=1)


def test_odd_partition_values_read_back(tmp_path: Path, folder: Path, make_config: Any) -> None:
    odd = ["a/b", "k=v", "line\nbreak", "🌊", "..", "%2F", " ", "x" * 245, "NULL"]
    moments = [dt.datetime(2024, 2, 29, 12, 30, 15, 7, tzinfo=dt.UTC), None, dt.datetime(1, 1, 1, tzinfo=dt.UTC)]
    good = [pair(q, f"d{m}", moment=moment) for q in odd for m, moment in enumerate(moments)]
    hive_null = "__HIVE_DEFAULT_PARTITION__"
    wrong = [pair("x" * 247, "d"), pair(hive_null, "d"), pair("é" * 45, "d")]
    rows = pa.Table.from_pylist([*good, *wrong])
    rows = rows.set_column(4, "moment", rows["moment"].cast(pa.timestamp("us", "Europe/Berlin")))
    pq.write_table(rows, folder / "a.parquet")
    far = pa.array([2**60, 0], pa.timestamp("us", "Europe/Berlin"))
    pq.write_table(pa.Table.from_pylist(pairs("far", 2)).append_column("moment", far), folder / "b.parquet")
    pq.write_table(
        pa.Table.from_pylist(pairs("all null", 2)).append_column("moment", pa.nulls(2)), folder / "c.parquet"
    )
    config = make_config(
        output={"path": str(tmp_path / "run"), "partition_by": ["query_id", "moment"]}, limits=ALL_MAY_BE_BAD
    )
    assert rerank(config, load=load_cheap_scorer) == ExitCode.DONE
    schema = pa.schema([("query_id", pa.string()), ("moment", pa.timestamp("us", "UTC"))])
    dataset = ds.dataset(tmp_path / "run" / "reranked", partitioning=ds.partitioning(schema, flavor="hive"))
    found = dataset.to_table(columns=["query_id", "doc_id", "moment"]).to_pylist()
    expected = [(row["query_id"], row["doc_id"], row["moment"]) for row in good]
    expected += [
        ("far", "d1", dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        ("all null", "d0", None),
        ("all null", "d1", None),
    ]
    assert Counter(tuple(row[name] for name in ("query_id", "doc_id", "moment")) for row in found) == Counter(expected)
    reasons = {(row["query_id"], row["doc_id"]): row["reason"] for row in read_output(tmp_path / "run", "quarantine")}
    long = "query_id: its partition's directory would have a name of more than 255 bytes"
    assert reasons == {
        ("x" * 247, "d"): long,
        ("é" * 45, "d"): long,
        (hive_null, "d"): f"query_id: the text {hive_null} stands for null in the name of a partition's directory",
        ("far", "d0"): "moment: -27032-08-17 21:30:06.846976Z is too far from today to be read back from the name of a "
        "partition's directory",
    }
    counts = report_of(tmp_path / "run")["counts"]
    assert (counts["read"], counts["scored"], counts["quarantined"]) == (34, 30, 4)


def refusals(folder: Path) -> Iterator[tuple[str, type[Exception], str]]:
    """Writes input that is refused, one after the other: the error and what its message says."""
    write_parquet(folder / "a.parquet", pairs("q", 100))
    whole = (folder / "a.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    yield "cut.parquet", InputError, r"cut\.parquet: not a complete Parquet file .*remove it or write it again"
    write_parquet(folder / "text.parquet", [pair("q", "d") | {"text": 5}])
    yield "text.parquet", InputError, r"text\.parquet: .*column 'text': got int64, expected string; cast it first"
    write_parquet(folder / "ids.parquet", [pair(1.5, "d")])
    yield "ids.parquet", InputError, r"ids\.parquet: .*column 'query_id': got double, expected .*; cast it first"
    packed = gzip.compress("\n".join(json.dumps(row) for row in pairs("q", 500)).encode())
    (folder / "a.parquet").unlink()
    (folder / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    yield "cut.jsonl.gz", InputError, r"cut\.jsonl\.gz: not a complete compressed file .*write it again"


def test_what_cannot_be_read_is_refused_before_any_work(tmp_path: Path, folder: Path, make_config: Any) -> None:
    for name, error, message in refusals(folder):
        with pytest.raises(error, match=message):
            rerank(make_config(), load=load_cheap_scorer)
        assert not (tmp_path / "run").exists()
        (folder / name).unlink()


def test_a_compressed_file_that_ends_early_stops_the_job_by_name(
    tmp_path: Path, folder: Path, make_config: Any
) -> None:
    draw = np.random.default_rng(0)
    rows = [pair("q", f"d{i}") | {"text": draw.bytes(100).hex()} for i in range(10_000)]
    write_jsonl(folder / "a.jsonl", rows)
    packed = gzip.compress((folder / "a.jsonl").read_bytes())
    (folder / "a.jsonl").unlink()
    (folder / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])  # far behind the sample that is looked at first
    with pytest.raises(Exception, match=r"b\.jsonl\.gz: not a complete compressed file .*write it again"):
        rerank(make_config(), load=load_cheap_scorer)
    assert not (tmp_path / "run" / "_SUCCESS").exists()

    # written again, it is read by the same command into the same place
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"".join(b"%s\n" % json.dumps(row).encode() for row in rows[:9])))
    assert rerank(make_config(), load=load_cheap_scorer) == ExitCode.DONE
    assert {row["doc_id"] for row in read_output(tmp_path / "run")} == {f"d{i}" for i in range(9)}


@pytest.mark.matrix
def test_a_nested_row_group_beyond_2_gib_is_read_in_parts(folder: Path) -> None:
    count = 2_300
    texts = pa.repeat(pa.scalar("wing flow " * 100_000, pa.large_string()), count)  # 1 MB each
    documents = pa.StructArray.from_arrays([pa.array([f"d{i}" for i in range(count)]), texts], ["doc_id", "text"])
    lists = pa.LargeListArray.from_arrays(pa.array(np.arange(count + 1)), documents)
    queries = [f"q{i}" for i in range(count)]
    table = pa.table({"query_id": queries, "query": queries, "candidates": lists})
    options: dict[str, Any] = {
        "use_dictionary": False,
        "store_schema": False,
    }  # so that the text has offsets of 32 bits
    pq.write_table(table, folder / "a.parquet", row_group_size=count, compression="zstd", **options)
    with pytest.raises(pa.ArrowNotImplementedError, match="Nested data conversions"):
        pq.ParquetFile(folder / "a.parquet").read_row_group(0)
    storage, quarantine = Storage(StorageConfig()), Quarantine("read")
    source = inspect_source(storage, str(folder), "candidates")
    found = [table for split in source.splits for table in read_split(storage, source, split, quarantine)]
    assert len(quarantine) == 0
    assert [name for table in found for name in table["doc_id"].to_pylist()] == documents.field("doc_id").to_pylist()
    assert {length for table in found for length in pc.binary_length(table["text"]).to_pylist()} == {1_000_000}


@pytest.mark.matrix
def test_a_million_candidates_of_one_query(tmp_path: Path, folder: Path, make_config: Any) -> None:
    count = 1_000_000
    numbers = pa.array(np.arange(count))
    text = pc.binary_join_element_wise("wing flow heat", numbers.cast(pa.string()), " ")
    query = {name: pa.repeat(pa.scalar(value), count) for name, value in {"query_id": "q", "query": "a?"}.items()}
    pq.write_table(pa.table({**query, "doc_id": numbers, "text": text}), folder / "a.parquet", row_group_size=100_000)
    started = time.monotonic()
    assert rerank(make_config(), load=load_cheap_scorer) == ExitCode.DONE
    sys.stderr.write(f"{count} candidates of one query: {time.monotonic() - started:.1f} s\n")  # pytest -rP shows it
    assert report_of(tmp_path / "run")["counts"]["scored"] == count
    found = ds.dataset(tmp_path / "run" / "reranked").to_table(columns=["doc_id", "rank", "margin"])
    assert len(found) == count
    assert np.array_equal(np.sort(found["rank"].to_numpy()), np.arange(1, count + 1))
    assert pc.count_distinct(found["doc_id"]).as_py() == count
    margins = found["margin"].to_numpy()[np.argsort(found["rank"].to_numpy())]
    assert (np.diff(margins) <= 0).all()
