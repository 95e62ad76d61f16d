"""The formats that trainers read: what kind of file each is, and how its rows become lines.

Where the instruction goes differs (`TrainerFormat.instruction`). TART's own formats have it in front of the query,
"instruction [SEP] query", as TART reads it; others have a field for it; those that have neither hold the query alone
unless ``join_instruction`` says otherwise, since to a BERT tokenizer "[SEP]" is no text but its special token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from tart_ray.mining.format_options import FormatOptions
from tart_ray.mining.rows_other_trainers import (
    colbert,
    dpr,
    flagembedding,
    flagembedding_reranker,
    margin_mse,
    tart_dual,
    tart_full,
    tevatron,
)
from tart_ray.mining.rows_sentence_transformers import labeled_list, labeled_pair, n_tuple, triplet
from tart_ray.mining.unrolled import Formatted


@dataclass(frozen=True)
class TrainerFormat:
    """A format: what makes its rows, the kind of file that its trainer reads, and where the instruction is.

    Attributes:
        rows: makes rows of `tart_ray.mining.groups.GROUPS`, as the options say.
        file: ``json`` is one array for each file.
        suffix: of the files' names, where it is not ``file``.
        instruction: ``always`` joined, "instruction [SEP] query"; ``joined`` unless ``join_instruction`` is False;
            ``absent`` unless it is True; the name of its field; or None, where there are only ids.
        scores: whether ``with_scores`` makes a difference.
        uses_num_negatives: whether ``num_negatives`` does.
    """

    rows: Callable[[pa.Table, FormatOptions], Formatted]
    file: Literal["parquet", "jsonl", "json", "tsv"]
    suffix: str = ""
    instruction: str | None = "absent"
    scores: bool = True
    uses_num_negatives: bool = False

    def file_name(self, stem: str) -> str:
        """The name of a file of this format."""
        return f"{stem}.{self.suffix or self.file}"

    def lacks_instruction(self, options: FormatOptions) -> bool:
        """Whether the rows hold texts of queries without their instructions."""
        joined = self.instruction == "joined" if options.join_instruction is None else options.join_instruction
        return self.instruction in ("joined", "absent") and not joined

    def where_instruction_is(self, options: FormatOptions) -> str:
        """A few words that say what the rows have for a query."""
        if self.instruction is None:
            return "ids alone"
        if self.lacks_instruction(options):
            return "queries without their instruction"
        apart = self.instruction not in ("always", "joined", "absent")
        return f"instructions in {self.instruction}" if apart else 'queries as "instruction [SEP] query"'


FORMATS: dict[str, TrainerFormat] = {
    "triplet": TrainerFormat(triplet, "parquet"),
    "n-tuple": TrainerFormat(n_tuple, "parquet", uses_num_negatives=True),
    "labeled-pair": TrainerFormat(labeled_pair, "parquet"),
    "labeled-list": TrainerFormat(labeled_list, "parquet"),
    "flagembedding": TrainerFormat(flagembedding, "jsonl", instruction="prompt"),
    "flagembedding-reranker": TrainerFormat(flagembedding_reranker, "jsonl", instruction="query_prompt"),
    "tevatron": TrainerFormat(tevatron, "jsonl", scores=False),
    "tart-full": TrainerFormat(tart_full, "jsonl", suffix="json", instruction="always", scores=False),
    "tart-dual": TrainerFormat(tart_dual, "jsonl", instruction="joined"),
    "dpr": TrainerFormat(dpr, "json"),
    "dpr-jsonl": TrainerFormat(dpr, "jsonl"),
    "colbert": TrainerFormat(colbert, "jsonl", instruction=None, uses_num_negatives=True),
    "margin-mse": TrainerFormat(margin_mse, "tsv", instruction=None),
}


def contents(name: str, rows: pa.Table) -> bytes | None:
    """The file of a format that is text, whole; None where there are no rows, for readers take it for a broken file."""
    if not len(rows):
        return None
    if FORMATS[name].file == "json":
        return ("[\n" + ",\n".join(lines(name, rows)) + "\n]\n").encode()
    return "".join(f"{line}\n" for line in lines(name, rows)).encode()


def lines(name: str, rows: pa.Table) -> Iterator[str]:
    """Rows of the format as text, without line ends: a JSON value each, or fields between tabs."""
    write = _tsv if FORMATS[name].file == "tsv" else _colbert if name == "colbert" else _json
    for batch in rows.to_batches(max_chunksize=4096):
        yield from map(write, batch.to_pylist())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _colbert(row: dict[str, Any]) -> str:
    documents = [
        [document["pid"], document["score"]] if "score" in document else document["pid"]
        for document in row["documents"]
    ]
    return _json([row["query_id"], *documents])


def _tsv(row: dict[str, Any]) -> str:
    return "\t".join(str(value) for value in row.values())
