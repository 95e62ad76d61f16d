"""What a configuration makes of the input before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from support.job_files import write_jsonl

from tart_ray.input.quarantine import JOIN, Quarantine
from tart_ray.scores.chunks import join_documents
from tart_ray.scores.plan import make_plan
from tart_ray.storage import Storage
from tart_ray.tables.schemas import ORIGIN


def test_empty_documents_are_scored_where_the_configuration_says_so(tmp_path: Path, make_config: Any) -> None:
    write_jsonl(tmp_path / "candidates" / "a.jsonl", [{"query_id": "q", "query": "x", "doc_id": "d"}])
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "d", "title": "", "text": " "}])
    rows = pa.table({**{name: [0] for name in ORIGIN.names}, "query_id": ["q"], "doc_id": ["d"]})
    corpus = pa.table({"doc_id": ["d"], "title": [""], "text": [" "]})
    identities, kept = {}, {}
    for empty in ("quarantine", "score"):
        config = make_config(input={"corpus": str(tmp_path / "corpus.jsonl"), "empty_documents": empty})
        plan = make_plan(Storage(), config.input, windows=False)
        identities[empty] = plan.identity["input"]
        bad = Quarantine(JOIN)
        kept[empty] = (len(join_documents(rows, corpus, plan.candidates, bad)), [row["reason"] for row in bad.rows])
    assert kept == {"quarantine": (0, ["empty document"]), "score": (1, [])}
    assert identities["score"] == identities["quarantine"] | {"empty_documents": "score"}
