"""The cells of docs/python.md in a notebook, one of them interrupted and run again, on a Ray that the jobs start."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from support.job_files import write_jsonl

DOCUMENT = Path(__file__).parents[2] / "docs" / "python.md"
QUERIES, DOCUMENTS, CHUNKS = 40, 100, 8
SECONDS = 200  # for a cell; one that starts Ray takes about ten


class Notebook:
    """Cells that one kernel runs, each after the one before."""

    def __init__(self, client: NotebookClient) -> None:
        self.client = client

    @staticmethod
    @asynccontextmanager
    async def opened() -> AsyncIterator[Notebook]:
        """With a kernel, which is ended afterwards."""
        client = NotebookClient(nbformat.v4.new_notebook(), kernel_name="python3", timeout=SECONDS, allow_errors=True)
        async with client.async_setup_kernel():
            yield Notebook(client)

    async def run(self, source: str) -> str:
        """What a cell prints and what it ends with; an error as ``name: message``."""
        cells = self.client.nb.cells
        cells.append(nbformat.v4.new_code_cell(source))
        await self.client.async_execute_cell(cells[-1], len(cells) - 1)
        return "".join(map(text_of, cells[-1].outputs)).strip()

    async def run_until(self, interrupted_when: Callable[[], bool], source: str) -> str:
        """Likewise of a cell that is interrupted, as a user does who has seen something."""
        cell = asyncio.create_task(self.run(source))
        async with asyncio.timeout(SECONDS):
            while not interrupted_when():
                assert not cell.done(), cell.result()
                await asyncio.sleep(0.01)
        await self.client.km.interrupt_kernel()
        return await cell


def text_of(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text) if output.name == "stdout" else ""
    if output.output_type == "error":
        return f"\n{output.ename}: {output.evalue}"
    return str(output.data["text/plain"])


@pytest.fixture
def cells(tmp_path: Path, tiny_checkpoint: Path) -> list[str]:
    """The Python of the document, with our files in place of those that it names."""
    rows = [
        {"query_id": f"q{q}", "query": f"wing {q}", "doc_id": f"d{d}", "text": f"flow {d} of heat " * 4}
        for q in range(QUERIES)
        for d in range(DOCUMENTS)
    ]
    write_jsonl(tmp_path / "candidates.jsonl", rows)
    judged = "".join(f"q{q}\td{q}\t1\n" for q in range(QUERIES))
    (tmp_path / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    ours = {
        "facebook/tart-full-flan-t5-xl": tiny_checkpoint,
        "s3://bucket/candidates/": tmp_path / "candidates.jsonl",
        "s3://bucket/qrels/train.tsv": tmp_path / "qrels.tsv",
        "s3://bucket/run-42/": tmp_path / "run",
        "s3://bucket/mined-42/": tmp_path / "mined",
        '"gpus_per_replica": 1': '"gpus_per_replica": 0, "replicas": {"max": 1}',
    }
    document = DOCUMENT.read_text(encoding="utf-8")
    for theirs, our in ours.items():
        assert theirs in document
        document = document.replace(theirs, str(our))
    return re.findall(r"^```python\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _places_of_jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))


def test_the_cells_of_the_documentation(tmp_path: Path, cells: list[str]) -> None:
    reranks, reads, mines, opens, is_refused = cells

    def scored() -> dict[str, int]:
        """Chunks, and when each was committed."""
        return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "run/_commits/score").glob("*.json")}

    async def work() -> None:
        async with Notebook.opened() as notebook:
            said = await notebook.run_until(lambda: bool(scored()), reranks)
            assert "replicas: 1 to 1, float32, on cpu" in said  # the plan
            assert said.splitlines()[-1].startswith("KeyboardInterrupt")
            before = scored()
            assert len(before) < CHUNKS

            said = await notebook.run(reranks)  # the lease is free
            assert "(4000, True, ['reranked', 'scores'], {'prepare': " in " ".join(said.split())
            assert len(scored()) == CHUNKS
            assert before.items() <= scored().items()
            said = await notebook.run(reads)
            assert said.startswith("pyarrow.Table\nquery_id: string\ndoc_id: string\nrank: int32\n"), said
            assert await notebook.run("run.read('reranked').count_rows()") == "4000"

            assert (await notebook.run(mines)).endswith(str(7 * QUERIES))
            assert (await notebook.run(opens)).startswith("pyarrow.Table\nquery_id: string\n")
            refusal = "got an unknown key 'inputs'; did you mean 'input'?"
            assert (await notebook.run(is_refused)).startswith(refusal)
            said = await notebook.run("tart_ray.rerank({**config, 'inputs': {}})")
            assert said.startswith(f"ConfigurationError: {refusal}")
            assert await notebook.run("import ray; ray.is_initialized()") == "False"

    asyncio.run(work())
