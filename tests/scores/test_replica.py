"""A replica without Ray: every score belongs to its pair, whatever happened before."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support.specs import spec_of

from tart_ray import EncT5ForSequenceClassification, EncT5Tokenizer, Scorer
from tart_ray.config import CandidatesConfig, RerankConfig
from tart_ray.errors import CheckpointChangedError, CheckpointError, ConfigurationError
from tart_ray.runs.attempts import Attempt
from tart_ray.runs.run import Run
from tart_ray.scores.encode import EncodedChunk, window_columns
from tart_ray.scores.replica import Replica, ScoredChunk, load_scorer
from tart_ray.scores.spec import ScoringSpec
from tart_ray.storage import Storage

UNIT = "00000-00000"
TEXTS = [" ".join(["wing"] * count) for count in (3, 9, 1, 7, 5, 2, 8)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.at(Storage(), str(tmp_path / "run"), 3)


@pytest.fixture(params=[2_048, 24], ids=["one batch", "many batches"])
def scorer(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Scorer:
    return Scorer.from_pretrained(tiny_checkpoint, device="cpu", max_tokens_per_batch=request.param)


def config(checkpoint: Path) -> RerankConfig:
    cluster = {"gpus_per_replica": 0}
    sections = {"input": {"candidates": "x"}, "output": {"path": "x"}, "model": {"path": str(checkpoint)}}
    return RerankConfig.model_validate(sections | {"cluster": cluster})


def pinned(config: RerankConfig) -> ScoringSpec:
    return ScoringSpec.resolve(config.model, config.cluster, config.limits, config.storage, config.input)


def chunk_of(scorer: Scorer, texts: Sequence[str] = TEXTS, *, max_length: int = 512) -> EncodedChunk:
    """A chunk whose row 1 the tokenizer refused."""
    pairs = scorer.tokenizer.encode_windows(["flow"] * len(texts), texts, max_length=max_length)
    table = pa.table({"_row": [0, *range(2, len(TEXTS) + 1)], **window_columns(pairs)})
    return EncodedChunk(table, {1: "no room"})


def results(answer: ScoredChunk) -> tuple[list[float], dict[int, str]]:
    assert answer.table["_row"].to_pylist() == [0, *range(2, len(TEXTS) + 1)]
    return answer.table["margin"].to_pylist(), answer.reasons


class RaisingScorer:
    """A Scorer that raises at its first call with several pairs, and for one text always."""

    def __init__(self, scorer: Scorer, bad: list[int]) -> None:
        self._scorer, self._bad, self._calls = scorer, bad, 0
        self.max_tokens_per_batch = scorer.max_tokens_per_batch

    def score_encoded(self, pairs: Any) -> Any:
        self._calls += len(pairs) > 1
        if (self._calls == 1 and len(pairs) > 1) or any(pairs.row(i).tolist() == self._bad for i in range(len(pairs))):
            raise ValueError("not now")
        return self._scorer.score_encoded(pairs)


@pytest.mark.parametrize("died", [0, 1], ids=["first", "after a death"])
def test_scores_belong_to_their_pairs(died: int, scorer: Scorer, run: Run, tiny_checkpoint: Path) -> None:
    expected = scorer.score(["flow"] * len(TEXTS), TEXTS).margin
    assert len({*np.round(expected, 3).tolist()}) == len(TEXTS)  # a permutation would show
    for _ in range(died):
        Attempt.begin(run, "score", UNIT)
    margins, reasons = results(
        Replica(run, spec_of(config(tiny_checkpoint)), lambda _: scorer).score(UNIT, chunk_of(scorer))
    )
    np.testing.assert_allclose(margins, expected, atol=1e-6)
    assert reasons == {1: "no room"}


def test_a_row_that_raises_is_named_by_its_place_in_the_chunk(scorer: Scorer, run: Run, tiny_checkpoint: Path) -> None:
    expected = scorer.score(["flow"] * len(TEXTS), TEXTS).margin
    bad = scorer.tokenizer.encode_pairs(["flow"], [TEXTS[3]]).input_ids.tolist()
    replica = Replica(run, spec_of(config(tiny_checkpoint)), lambda _: RaisingScorer(scorer, bad))  # type: ignore[arg-type]
    margins, reasons = results(replica.score(UNIT, chunk_of(scorer)))
    assert reasons == {1: "no room", 4: "raised ValueError: not now"}
    assert np.isnan(margins[3])
    np.testing.assert_allclose(np.delete(margins, 3), np.delete(expected, 3), atol=1e-5)


def test_a_model_whose_output_is_never_a_number_is_refused(scorer: Scorer, run: Run, tiny_checkpoint: Path) -> None:
    scorer.model.classifier.weight.data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="logits for the shortest pair are"):
        Replica(run, spec_of(config(tiny_checkpoint)), lambda _: scorer)


def test_a_replica_that_starts_again_finds_the_manifests_checkpoint_or_ends(
    scorer: Scorer, run: Run, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    began = pinned(config(model))
    expected = results(Replica(run, began, load_scorer).score(UNIT, chunk_of(scorer)))
    assert results(Replica(run, began, load_scorer).score(UNIT, chunk_of(scorer))) == expected
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 64
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointChangedError, match="the manifest names a checkpoint of fingerprint"):
        Replica(run, began, load_scorer).score(UNIT, chunk_of(scorer))
    with pytest.raises(CheckpointChangedError, match=r"got a checkpoint of fingerprint .*, expected"):
        ScoringSpec.resolve(began.model, began.cluster, began.limits, began.storage, CandidatesConfig())


WINDOW = 20  # tokens: texts of 1 to 9 words are read in one to five windows


def window_results(answer: ScoredChunk) -> list[tuple[Any, ...]]:
    return list(
        zip(*(answer.table[name].to_pylist() for name in ("margin", "best_window", "num_windows")), strict=True)
    )


@pytest.mark.parametrize("died", [0, 1], ids=["first", "after a death"])
def test_the_best_window_belongs_to_its_pair(died: int, scorer: Scorer, run: Run, tiny_checkpoint: Path) -> None:
    windows = scorer.tokenizer.encode_windows(["flow"] * len(TEXTS), TEXTS, max_length=WINDOW)
    margin = scorer.score_encoded(windows.rows).margin
    for _ in range(died):
        Attempt.begin(run, "score", UNIT)
    answer = Replica(run, spec_of(config(tiny_checkpoint)), lambda _: scorer).score(
        UNIT, chunk_of(scorer, max_length=WINDOW)
    )
    for pair, (found, index, count) in enumerate(window_results(answer)):
        own = margin[windows.starts[pair] : windows.starts[pair + 1]]
        assert (index, count) == (np.argmax(own), len(own))
        assert found == pytest.approx(own.max(), abs=1e-5)
    assert answer.work.windows == len(windows.rows) > len(TEXTS)
    assert answer.work.tokens == windows.lengths.sum() <= answer.work.padded_tokens


def test_a_pair_is_given_up_for_one_window_that_raises(scorer: Scorer, run: Run, tiny_checkpoint: Path) -> None:
    texts = [*TEXTS[:3], TEXTS[3] + " <extra_id_9>", *TEXTS[4:]]
    windows = scorer.tokenizer.encode_windows(["flow"] * len(texts), texts, max_length=WINDOW)
    expected = windows.best(scorer.score_encoded(windows.rows).margin) - windows.starts[:-1]
    bad = windows.rows.row(windows.starts[4] - 1).tolist()  # the last of pair 3
    assert windows.starts[4] - windows.starts[3] > 2
    replica = Replica(run, spec_of(config(tiny_checkpoint)), lambda _: RaisingScorer(scorer, bad))  # type: ignore[arg-type]
    answer = replica.score(UNIT, chunk_of(scorer, texts, max_length=WINDOW))
    assert results(answer)[1] == {1: "no room", 4: "raised ValueError: not now"}
    found = window_results(answer)
    assert np.isnan(found[3][0])
    assert [index for _, index, _ in np.delete(found, 3, axis=0).tolist()] == np.delete(expected, 3).tolist()


def test_after_a_death_at_a_chunk_the_reference_scores_it(run: Run, tiny_checkpoint: Path) -> None:
    model = EncT5ForSequenceClassification.from_pretrained(tiny_checkpoint).eval()
    scorer = Scorer(model, EncT5Tokenizer.from_pretrained(tiny_checkpoint), encoder="packed")
    own = scorer.encoder
    replica = Replica(run, spec_of(config(tiny_checkpoint)), lambda _: scorer)
    work = replica.score(UNIT, chunk_of(scorer)).work
    assert (work.encoder, work.fallback) == (own, None)
    Attempt.begin(run, "score", UNIT)
    work = replica.score(UNIT, chunk_of(scorer)).work
    assert (work.encoder, work.fallback) == ("reference", "a process died at this chunk")
    work = replica.score(UNIT, chunk_of(scorer)).work
    assert (work.encoder, work.fallback) == (own, None)


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [("float32", "scoring in float32"), ("bfloat16", "bfloat16 is slower there; take float32")],
)
def test_a_processor_with_avx2_alone_is_named(
    dtype: str, advice: str, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = pinned(config(tiny_checkpoint))
    spec = dataclasses.replace(spec, model=spec.model.model_copy(update={"dtype": dtype}))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    load_scorer(spec)
    assert f"this processor has AVX2, not AVX-512: {advice}" in caplog.messages


def test_the_encoder_of_the_configuration_is_loaded_and_is_part_of_a_runs_identity(tiny_checkpoint: Path) -> None:
    spec = pinned(config(tiny_checkpoint))
    assert "encoder" not in spec.identity  # of runs that older releases began
    named = dataclasses.replace(spec, model=spec.model.model_copy(update={"encoder": "reference"}))
    assert named.identity == spec.identity | {"encoder": "reference"}
    scorer = load_scorer(named)
    assert isinstance(scorer, Scorer)
    assert scorer.encoder == "reference"


def test_an_encoder_for_gpus_is_refused_on_cpus(tiny_checkpoint: Path) -> None:
    padded = config(tiny_checkpoint)
    padded = padded.model_copy(update={"model": padded.model.model_copy(update={"encoder": "padded"})})
    with pytest.raises(ConfigurationError, match=r"model\.encoder: got padded and cluster\.gpus_per_replica: 0"):
        pinned(padded)
