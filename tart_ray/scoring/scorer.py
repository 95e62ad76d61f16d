"""Scorer: one replica of an EncT5 that scores (instruction, query, document) on one device."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from tart_ray.model.checkpoint import check_label_count
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.enct5 import EncT5ForSequenceClassification
from tart_ray.model.family import Family, family_of
from tart_ray.model.place import CheckpointPlace
from tart_ray.model.template import Template
from tart_ray.model.texts import check_pairs, join_instruction
from tart_ray.model.tokenizer import EncT5Tokenizer
from tart_ray.model.truncation import DEFAULT_MAX_LENGTH, LongDocuments, QueryTooLongError, Truncation
from tart_ray.scoring.choosing import ChoosingScorer
from tart_ray.scoring.dtypes import resolve_dtype
from tart_ray.scoring.ranking import Document, Instructions, RanksDocuments, split_titles
from tart_ray.scoring.reference import Encoder
from tart_ray.scoring.scores import Scores
from tart_ray.scoring.trials import Expected

if TYPE_CHECKING:
    from tart_ray.scoring.cross_encoder import CrossEncoderScorer

log = logging.getLogger(__name__)

PAIRS_AHEAD = 4_096  # tokenised together, while those before them are encoded


class Scorer(ChoosingScorer, RanksDocuments):
    """Score pairs: tokenise, sort by length, encode under a token budget, return results in input order.

    Args:
        model: the checkpoint, on its device, in evaluation mode.
        tokenizer: its tokenizer.
        max_length: tokens of a pair, or of a window of it.
        long_documents: ``truncate`` cuts longer pairs; ``maxp`` reads the whole document in windows, and the best
            window's score is the pair's.
        truncation: ``longest_first`` (as the original) or ``only_document``.
        max_tokens_per_batch: padded tokens that go through the encoder at once; by default what suits the device and
            its free memory. Running out of CUDA memory halves it, or splits the batch alone if that one was of half of
            it at most, and goes on.
        encoder: by name, or one of the caller's own; see `ChoosingScorer`.
        expected: logits in float32 for an encoder that is chosen by trying.

    Raises:
        CheckpointError: the model has more than two labels, so that no one number is a pair's relevance.
    """

    def __init__(
        self,
        model: EncT5ForSequenceClassification,
        tokenizer: EncT5Tokenizer,
        *,
        max_length: int = DEFAULT_MAX_LENGTH,
        long_documents: LongDocuments = "truncate",
        truncation: Truncation = "longest_first",
        max_tokens_per_batch: int | None = None,
        encoder: str | Encoder = "auto",
        expected: Expected | None = None,
        consume: bool = False,
    ) -> None:
        check_label_count(model.config.num_labels, model.name_or_path or type(model).__name__)
        super().__init__(
            model,
            max_length=max_length,
            max_tokens_per_batch=max_tokens_per_batch,
            encoder=encoder,
            expected=expected,
            consume=consume,
        )
        self.tokenizer = tokenizer
        self.long_documents = long_documents
        self.truncation = truncation

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        max_length: int = DEFAULT_MAX_LENGTH,
        long_documents: LongDocuments = "truncate",
        truncation: Truncation = "longest_first",
        split_special_tokens: bool = False,
        max_tokens_per_batch: int | None = None,
        encoder: str = "auto",
        fingerprint: str | None = None,
        family: Family | Literal["auto"] = "auto",
        template: Template | None = None,
    ) -> Scorer | CrossEncoderScorer:
        """Load a checkpoint from a hub id, a local directory or ``s3://…``.

        Args:
            device: by default CUDA where there is one, else the CPU.
            dtype: ``float32`` (the reference), ``bfloat16``, or ``auto`` / None: bfloat16 on CUDA, float32 on the CPU.
            encoder: ``reference``, ``padded`` (on CUDA) or ``packed``; ``auto`` is packed on CPUs, and on CUDA the
                reference until `choose` finds the fastest one, as a job does.
            fingerprint: of the checkpoint that must be there, as a run's ``manifest.json`` names it.
            family: of the model; ``auto`` reads the checkpoint's ``config.json``. Any other than ``enct5`` needs the
                package sentence-transformers.
            template: how a pair is written for another family.

        Raises:
            CheckpointError: the checkpoint cannot be found or used.
            CheckpointChangedError: it has another fingerprint.
            ConfigurationError: sentence-transformers is needed, and not installed.
            ValueError: a dtype that T5 does not survive, or an option that the family does not have.
        """
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        place = CheckpointPlace(path, revision, storage_options, fingerprint)
        if family == "auto":
            family = family_of(place)
        if family != "enct5":
            from tart_ray.scoring.cross_encoder import CrossEncoderScorer

            if (long_documents, truncation, split_special_tokens, encoder) != (
                "truncate", "longest_first", False, "auto",
            ):  # fmt: skip
                raise ValueError(
                    f"{path}: long_documents, truncation, split_special_tokens and encoder are for an EncT5"
                )
            return CrossEncoderScorer.from_place(
                place,
                template=template,
                device=device,
                dtype=dtype,
                max_length=max_length,
                max_tokens_per_batch=max_tokens_per_batch,
            )
        if template is not None:
            raise ValueError(f"{path}: got a template for an EncT5, which has one way to write a pair")
        tokenizer = EncT5Tokenizer.from_place(place, split_special_tokens=split_special_tokens)
        dtype, tries = resolve_dtype(dtype, device), encoder == "auto" and device.type == "cuda"
        model = EncT5ForSequenceClassification.from_place(place, dtype=torch.float32 if tries else dtype)
        model = model.to(device).eval()
        expected = Expected.of(model, max_length) if tries else None
        scorer = cls(
            model.to(dtype),
            tokenizer,
            max_length=max_length,
            long_documents=long_documents,
            truncation=truncation,
            max_tokens_per_batch=max_tokens_per_batch,
            encoder=encoder,
            expected=expected,
            consume=device.type == "cpu",
        )
        if device.type == "cuda" and not tries:
            scorer.calibrate(max_length, tokenizer.eos_token_id)
        return scorer

    def score(self, queries: Sequence[str], documents: Sequence[Document], instructions: Instructions = None) -> Scores:
        """Score ``documents[i]`` for ``queries[i]`` under ``instructions[i]``, or under one instruction for all.

        Args:
            documents: texts, or mappings of ``text`` and, if need be, ``title``, which are read as a job reads these
                columns: ``(title + " " + text).strip()``.

        Raises:
            TypeError, ValueError: as `check_pairs` and `split_titles`.
        """
        texts, titles = split_titles(documents)
        instructions = check_pairs(queries, texts, instructions)
        begins = [0] * len(texts)
        if titles is not None:
            texts, begins = _with_titles(texts, titles)
        for name, read in (("queries", queries), ("documents", texts)):
            if empty := self.tokenizer.without_tokens(read):
                log.warning(
                    "%d %s encode to no token and are scored as empty texts; the first is %s[%d]",
                    len(empty), name, name, empty[0],
                )  # fmt: skip
        joined = list(map(join_instruction, instructions, queries))
        if self.long_documents == "truncate":
            return Scores(np.concatenate([self.score_encoded(pairs).logits for pairs in self._tokenise(joined, texts)]))
        heads = [max(begin - 1, 0) for begin in begins]  # characters of titles, without the space
        windows = self.tokenizer.encode_windows(
            joined, texts, heads=heads, max_length=self.max_length, truncation=self.truncation
        ).counted_from(begins)
        scores = self.score_encoded(windows.rows)
        best = windows.best(scores.margin)
        return Scores(scores.logits[best], windows.describe(best))

    def _tokenise(self, texts: list[str], documents: Sequence[str]) -> Iterator[EncodedPairs]:
        """Pairs in the order of the input, tokenised in a thread ahead of who takes them."""

        def encode(start: int) -> EncodedPairs:
            rows = slice(start, start + PAIRS_AHEAD)
            try:
                return self.tokenizer.encode_pairs(
                    texts[rows], documents[rows], max_length=self.max_length, truncation=self.truncation
                )
            except QueryTooLongError as error:
                raise QueryTooLongError([start + row for row in error.rows], self.max_length) from None

        if len(texts) <= PAIRS_AHEAD:
            yield encode(0)
            return
        with ThreadPoolExecutor(1, "tokenise") as thread:
            starts = range(0, len(texts), PAIRS_AHEAD)
            following = thread.submit(encode, 0)
            for start in itertools.islice(starts, 1, None):
                ready, following = following, thread.submit(encode, start)
                yield ready.result()
            yield following.result()


def _with_titles(texts: Sequence[str], titles: Sequence[str | None]) -> tuple[list[str], list[int]]:
    """What the model reads of each document, and the character at which its text begins."""
    import pyarrow as pa  # here: who scores bare texts need not load it

    from tart_ray.tables.texts import document_texts

    columns = {"title": titles, "text": texts}
    return document_texts(pa.table({name: pa.array(column, pa.large_string()) for name, column in columns.items()}))
