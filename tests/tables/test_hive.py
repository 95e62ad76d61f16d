"""Partition directories, read back by the engines that users have."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tart_ray.tables.hive import partition_rules, partitionable, partitions

TEXTS = ["plain", "a/b", "k=v", "line\nbreak", "🌊", "100%", "%2F", "", " ", "..", "ü", "*?[", "it's", None]
MOMENT = dt.datetime(2024, 2, 29, 12, 30, 15)
COLUMNS = {
    "text": pa.array(TEXTS, pa.large_string()),
    "whole": pa.array([-1, 0, 2**40, None], pa.int64()),
    "flag": pa.array([True, False, None]),
    "day": pa.array([dt.date(2024, 2, 29), None]),
    "moment": pa.array([MOMENT, MOMENT.replace(microsecond=7), None], pa.timestamp("us")),
}


def write(folder: Path, table: pa.Table, columns: list[str]) -> list[str]:
    """Write every partition; returns the directories."""
    found = []
    for directories, part in partitions(table, columns):
        found.append("/".join(directories))
        target = folder.joinpath(*directories)
        target.mkdir(parents=True)
        pq.write_table(part, target / "0.parquet")
    return found


@pytest.mark.parametrize("name", list(COLUMNS))
def test_values_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    table = pa.table({name: COLUMNS[name], "n": range(len(COLUMNS[name]))})
    table = pa.concat_tables([table, table])
    directories = write(tmp_path, table, [name])
    assert len(directories) == len(COLUMNS[name])
    expected = sorted((row["n"], row[name]) for row in table.to_pylist())

    schema = pa.schema([table.schema.field(name)])
    dataset = ds.dataset(tmp_path, format="parquet", partitioning=ds.partitioning(schema, flavor="hive"))
    found = dataset.to_table(columns=["n", name])
    assert found.schema.field(name).type == COLUMNS[name].type
    assert sorted((row["n"], row[name]) for row in found.to_pylist()) == expected

    kind = {"text": "VARCHAR", "whole": "BIGINT", "flag": "BOOLEAN", "day": "DATE", "moment": "TIMESTAMP"}[name]
    query = f"SELECT n, {name} FROM read_parquet(?, hive_partitioning=true, hive_types={{'{name}': {kind}}})"
    assert sorted(duckdb.execute(query, [f"{tmp_path}/**/*.parquet"]).fetchall()) == expected


def test_directories_in_order_of_values_and_rows_in_their_own(tmp_path: Path) -> None:
    table = pa.table({"lang": ["en", "de", "en", None], "year": [2, 1, 1, 1], "n": [0, 1, 2, 3], "a/b": list("wxyz")})
    parts = list(partitions(pa.concat_tables([table, table]), ["lang", "year"]))
    assert [(directories, part["n"].to_pylist()) for directories, part in parts] == [
        (("lang=de", "year=1"), [1, 1]),
        (("lang=en", "year=1"), [2, 2]),
        (("lang=en", "year=2"), [0, 0]),
        (("lang=__HIVE_DEFAULT_PARTITION__", "year=1"), [3, 3]),
    ]
    assert parts[0][1].schema.names == ["n", "a/b"]
    assert next(directories for directories, _ in partitions(table, ["a/b"])) == ("a%2Fb=w",)


def test_without_columns_there_is_one_partition_and_without_rows_none_that_holds_any() -> None:
    table = pa.table({"a": [1, 2]})
    assert [(directories, len(part)) for directories, part in partitions(table, [])] == [((), 2)]
    assert list(partitions(table.slice(0, 0), ["a"])) == []


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_of_every_unit_and_of_years_beyond_python(unit: str) -> None:
    table = pa.table({"t": pa.array([1, 2**60], pa.timestamp(unit)), "n": [0, 1]})
    found: list[Any] = [directories for directories, _ in partitions(table, ["t"])]
    assert len({*found}) == 2
    assert found[0][0].startswith("t=1970-01-01%2000%3A00%3A0")


def condemned(values: pa.Array, name: str = "k") -> dict[int, str]:
    """The reason for each row that cannot be written."""
    table = pa.table({name: pa.chunked_array([values, values[:0]])})
    return {row: reason for mask, reason in partition_rules(table, [name]) for row in np.flatnonzero(mask).tolist()}


def test_values_that_no_directory_can_be_named_for() -> None:
    fits, too_long = "x" * 253, "x" * 254  # k=xxx…: 255 bytes, and one more
    values = ["a", fits, too_long, None, "é" * 43, "é" * 42, "", "__HIVE_DEFAULT_PARTITION__", too_long, " "]
    long = "k: its partition's directory would have a name of more than 255 bytes"
    assert condemned(pa.array(values, pa.large_string())) == {
        2: long,
        4: long,  # é is %C3%A9
        6: "k: an empty text is no name for a partition's directory, Spark refuses to read one",
        7: "k: the text __HIVE_DEFAULT_PARTITION__ stands for null in the name of a partition's directory",
        8: long,
    }
    assert list(condemned(pa.array([None, 1]), "n" * 250)) == [0]  # a null has a longer name than a number
    assert condemned(pa.array([None, 1]), "n" * 228) == {}
    assert condemned(pa.array([], pa.string())) == {}
    assert condemned(pa.nulls(2, pa.string())) == {}


@pytest.mark.parametrize("name", list(COLUMNS))
def test_what_is_not_condemned_can_be_written(tmp_path: Path, name: str) -> None:
    table = pa.table({name: COLUMNS[name], "n": range(len(COLUMNS[name]))})
    bad = condemned(COLUMNS[name], name)
    assert [COLUMNS[name][row].as_py() for row in bad] == ([""] if name == "text" else [])
    assert len(write(tmp_path, table, [name])) == len(table)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "+05:30", "Mars/Phobos"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_that_are_not_condemned_read_back(tmp_path: Path, unit: str, zone: str | None) -> None:
    kind = pa.timestamp(unit, zone)
    values = pa.array([0, 1, -(2**31), 2**31, 1_711_846_799, 1_711_846_800, None, 2**60, -(2**62)], kind)
    bad = condemned(values)
    assert set(bad) == ({7, 8} if unit != "ns" else set())  # years beyond 292,277,026,596 are none
    assert all("is too far from today to be read back" in reason for reason in bad.values())
    table = pa.table({"k": values, "n": range(len(values))}).filter(pa.array([row not in bad for row in range(9)]))
    write(tmp_path, table, ["k"])
    read_as = pa.schema([("k", pa.timestamp(unit, zone and "UTC"))])
    found = ds.dataset(tmp_path, format="parquet", partitioning=ds.partitioning(read_as, flavor="hive")).to_table()
    back = {row["n"]: row["k"] for row in found.set_column(1, "k", found["k"].cast(pa.int64())).to_pylist()}
    assert back == {row: values.cast(pa.int64())[row].as_py() for row in range(9) if row not in bad}


def test_days_beyond_the_calendar_are_condemned() -> None:
    days = pa.array([0, -719162, 2932896, 2**31 - 1, -(2**31), None], pa.int32()).cast(pa.date32())
    assert set(condemned(days)) == {3, 4}


def test_only_what_names_a_directory_well_can() -> None:
    kinds = {
        "string": pa.string(), "large": pa.large_string(), "int": pa.int8(), "bool": pa.bool_(), "date": pa.date32(),
        "time": pa.timestamp("ns", "UTC"), "float": pa.float64(), "list": pa.list_(pa.int8()), "bytes": pa.binary(),
        "null": pa.null(), "struct": pa.struct([("a", pa.int8())]), "decimal": pa.decimal128(5, 2),
    }  # fmt: skip
    assert partitionable(pa.schema(list(kinds.items()))) == ["string", "large", "int", "bool", "date", "time"]


def test_columns_whose_directories_are_hidden_partition_nothing() -> None:
    kinds = pa.schema([("_year", pa.int64()), (".x", pa.string()), ("year", pa.int64()), ("score", pa.float64())])
    assert partitionable(kinds) == ["year"]
