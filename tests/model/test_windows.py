"""Windows over long documents: by hand, and what must hold of all: every token in one, the characters it says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer
from support.fuzzing import FUZZED
from support.job_files import WORDS

from tart_ray import EncT5Tokenizer
from tart_ray.model import text_tokenizer
from tart_ray.model.encoded import EncodedPairs, EncodedWindows
from tart_ray.model.texts import join_instruction
from tart_ray.model.truncation import QueryTooLongError, longest_first

EOS = 1
FOREIGN = "flügel café naïve дом мост ёлка größe señor ελπίδα fin wing office 12 7.5".split()


def train(folder: Path, sentences: list[str], **options: Any) -> EncT5Tokenizer:
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2, "hard_vocab_limit": False}
    prefix = str(folder / "vocabulary")
    SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_prefix=prefix, **ids, **options)
    return EncT5Tokenizer(prefix + ".model")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> EncT5Tokenizer:
    """Every word is one token."""
    return train(tmp_path_factory.mktemp("words"), [" ".join(WORDS)] * 9, model_type="word", vocab_size=40)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> EncT5Tokenizer:
    """Words are several tokens each, and full of letters beyond ASCII."""
    sentences = [" ".join(FOREIGN[i:] + FOREIGN[:i]) for i in range(len(FOREIGN))]
    return train(tmp_path_factory.mktemp("foreign"), sentences * 20, vocab_size=90, character_coverage=1.0)


def numbered(count: int) -> list[str]:
    return [WORDS[i % len(WORDS)] for i in range(count)]


def parts(tokenizer: EncT5Tokenizer, windows: EncodedWindows, pair: int, query: str) -> list[list[int]]:
    """What the windows of a pair hold of its document, after the query, which all of them must begin with."""
    (ids,) = tokenizer.encode_texts([query])
    front = [tokenizer.bos_token_id, *ids, EOS]
    rows = [windows.rows.row(row).tolist() for row in range(windows.starts[pair], windows.starts[pair + 1])]
    assert all(row[: len(front)] == front and row[-1] == EOS for row in rows)
    return [row[len(front) : -1] for row in rows]


# By hand, one token a word


def test_a_document_of_1200_tokens_in_windows_of_512(words: EncT5Tokenizer) -> None:
    """512 less <s>, </s>, </s> and one token of the query are 508. The last window begins at 1200 - 508 = 692; steps
    of at most 508 - 127 = 381 make it two, of 346 each.
    """
    text = numbered(1_200)
    windows = words.encode_windows(["wing"], [" ".join(text)], max_length=512)
    expected = [text[0:508], text[346:854], text[692:1200]]
    assert parts(words, windows, 0, "wing") == words.encode_texts([" ".join(part) for part in expected])
    assert windows.starts.tolist() == [0, 3]
    assert windows.lengths.tolist() == [3 * 512]
    assert windows.truncated.tolist() == [False]
    covered = [" ".join(text)[start:end] for start, end in windows.spans.tolist()]
    assert [part.strip() for part in covered] == [" ".join(part) for part in expected]


def test_the_title_is_in_every_window(words: EncT5Tokenizer) -> None:
    """16 less 3 and 2 of the query are 11, less 3 of the title 8; from 3 to 23 - 8 = 15 in two steps of 6."""
    title, text = ["jet", "body", "lift"], numbered(20)
    whole = " ".join(title + text)
    windows = words.encode_windows(["wing flow"], [whole], heads=[len("jet body lift")], max_length=16)
    expected = [" ".join(title + part) for part in (text[0:8], text[6:14], text[12:20])]
    assert parts(words, windows, 0, "wing flow") == words.encode_texts(expected)
    covered = [whole[start:end].strip() for start, end in windows.spans.tolist()]
    assert covered == [" ".join(part) for part in (text[0:8], text[6:14], text[12:20])]
    assert words.encode_pairs(["wing flow"], [whole], max_length=16).row(0).tolist() == windows.rows.row(0).tolist()


def test_a_title_that_takes_more_than_half_of_the_room_is_read_as_text(words: EncT5Tokenizer) -> None:
    """6 of 11: windows of 11 in 26, from 0 to 15 in two steps of at most 11 - 2 = 9."""
    text = numbered(26)
    head = len(" ".join(text[:6]))
    windows = words.encode_windows(["wing flow"], [" ".join(text)], heads=[head], max_length=16)
    expected = [" ".join(part) for part in (text[0:11], text[7:18], text[15:26])]
    assert parts(words, windows, 0, "wing flow") == words.encode_texts(expected)
    shorter = words.encode_windows(["wing flow"], [" ".join(text)], heads=[len(" ".join(text[:5]))], max_length=16)
    assert all(
        part[:5] == words.encode_texts([" ".join(text[:5])])[0] for part in parts(words, shorter, 0, "wing flow")
    )


def test_a_query_that_is_cut_is_told_of(words: EncT5Tokenizer) -> None:
    """Of 13 tokens an eighth of 16, 2, are left to the document: a quarter of which is no token to share."""
    query, text = numbered(30)[10:], numbered(20)
    windows = words.encode_windows([" ".join(query)], [" ".join(text)], max_length=16)
    expected = [" ".join(text[begin : begin + 2]) for begin in range(0, 20, 2)]
    assert parts(words, windows, 0, " ".join(query[:11])) == words.encode_texts(expected)
    assert windows.truncated.tolist() == [True]
    short = words.encode_windows([" ".join(query)], ["wing flow"], max_length=16)
    assert (short.truncated.tolist(), len(short.rows)) == ([True], 1)


def test_only_document_refuses_queries_that_leave_less_than_an_eighth(words: EncT5Tokenizer) -> None:
    queries = [" ".join(numbered(count)) for count in (11, 12, 12)]
    documents = ["wing flow heat", "wing flow heat", "wing"]
    with pytest.raises(QueryTooLongError, match="too little room") as refused:
        words.encode_windows(queries, documents, max_length=16, truncation="only_document")
    assert refused.value.rows == [1]
    windows = words.encode_windows(queries[::2], documents[::2], max_length=16, truncation="only_document")
    assert windows.starts.tolist() == [0, 2, 3]
    assert parts(words, windows, 0, queries[0]) == words.encode_texts(["wing flow", "flow heat"])
    assert windows.truncated.tolist() == [False, False]


def test_the_smallest_windows(words: EncT5Tokenizer) -> None:
    windows = words.encode_windows(["wing flow"], ["heat plate shock"], max_length=5)
    assert parts(words, windows, 0, "wing") == words.encode_texts(["heat", "plate", "shock"])
    with pytest.raises(ValueError, match="got 4, expected room for a token of query and document each"):
        words.encode_windows(["wing flow"], ["heat plate shock"], max_length=4)
    with pytest.raises(ValueError, match="got 1 queries and 2 documents"):
        words.encode_windows(["wing"], ["heat", "plate"])


# Documents that fit


def assert_one_window_each(windows: EncodedWindows, pairs: EncodedPairs, documents: list[str]) -> None:
    assert windows.starts.tolist() == list(range(len(documents) + 1))
    assert windows.rows.input_ids.tolist() == pairs.input_ids.tolist()
    assert windows.rows.offsets.tolist() == pairs.offsets.tolist()
    assert windows.truncated.tolist() == pairs.truncated.tolist()
    assert windows.spans.tolist() == [[0, len(document)] for document in documents]


def test_documents_that_fit_are_as_they_were(words: EncT5Tokenizer) -> None:
    documents = ["", "wing", " ".join(numbered(12)), "漢字 </s> flow"]
    queries = ["wing", "", "flow", "flow"]
    for truncation in ("longest_first", "only_document"):
        limits: Any = {"max_length": 16, "truncation": truncation}
        pairs = words.encode_pairs(queries, documents, **limits)
        assert_one_window_each(words.encode_windows(queries, documents, **limits), pairs, documents)
    nothing = words.encode_windows([], [])
    assert (len(nothing), nothing.best(np.zeros(0, np.float32)).tolist()) == (0, [])


def test_golden_pairs_that_fit_are_the_originals(shared_data: Path) -> None:
    golden = json.loads((shared_data / "golden_pairs.json").read_text())
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    queries = [join_instruction(pair["instruction"], pair["query"]) for pair in golden]
    windows = tokenizer.encode_windows(queries, [pair["document"] for pair in golden])
    first = [windows.rows.row(row).tolist() for row in windows.starts[:-1]]
    whole = [
        pair["input_ids"][1 : len(ids) + 1] == ids
        for pair, ids in zip(golden, tokenizer.encode_texts(queries), strict=True)
    ]
    assert sum(whole) > len(golden) - 10  # of the others the original cut the query, which windows do not
    assert list(itertools.compress(first, whole)) == [pair["input_ids"] for pair in itertools.compress(golden, whole)]
    assert len(windows.rows) > len(golden)  # some are longer, and begin as the original cut them


# What must hold of all


def texts_of(pieces: list[str], size: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=size).map("".join)


ODD = [
    "漢字",
    "🌊",
    "</s>",
    " </s> ",
    "<pad>",
    "½",
    "ﷺ",
    "\u0301",
    "\u200b",
    "\u3000",
    "\t\n",
    "  ",
    "▁",
    "<",
    "\x00",
    "¨",
]


@FUZZED
@given(data=st.data())
def test_fuzz_every_token_is_in_a_window(foreign: EncT5Tokenizer, data: Any) -> None:
    text = data.draw(texts_of([*FOREIGN, *ODD, *" " * 30], 120))
    query = data.draw(texts_of([*FOREIGN, *" " * 10], 12))
    max_length = data.draw(st.integers(8, 70))
    head = data.draw(st.integers(0, max(len(text) // 3, 1)))
    least = max(max_length // 8, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_tokenizer, "CHARACTERS_PER_BLOCK", (data.draw(st.sampled_from([3, 20, 4_096])), 9_999))
        windows = foreign.encode_windows([query], [text], heads=[head], max_length=max_length)
    pair = foreign.encode_pairs([query], [text], max_length=max_length)
    first, second = foreign.encode_texts([query, text])
    whole = max_length - 3
    cut = longest_first(np.array(len(first)), np.array(len(second)), whole)
    kept = min(len(first), max(int(cut[0]), whole - least))
    room = min(len(second), whole - kept)
    if cut[0] == len(first):
        assert windows.rows.row(0).tolist() == pair.row(0).tolist()
    assert set(windows.rows.lengths.tolist()) == {3 + kept + room}
    assert windows.truncated.tolist() == [kept < len(first)]
    rows = [windows.rows.row(row).tolist()[kept + 2 : -1] for row in range(len(windows.rows))]
    spans = windows.spans.tolist()
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(before[0] <= after[0] and before[1] <= after[1] for before, after in itertools.pairwise(spans))
    if len(rows) == 1:
        assert rows == [second]
        return
    assert len(second) > room
    repeated = next(count for count in range(room + 1) if is_covered(rows, second, count, room))
    assert repeated <= room // 2
    assert foreign.encode_texts([text[spans[-1][1] :]]) == [[]]


def is_covered(rows: list[list[int]], document: list[int], repeated: int, room: int) -> bool:
    """Whether the windows are parts of the document, behind so many tokens of its beginning, and leave none out."""
    if any(row[:repeated] != document[:repeated] for row in rows):
        return False
    size, reached = room - repeated, repeated
    shared = size // 4
    for number, row in enumerate(rows):
        earliest = 0 if number == 0 else repeated
        places = [
            place
            for place in range(earliest, reached - (shared if number else 0) + 1)
            if document[place : place + size] == row[repeated:]
        ]
        if not places:
            return False
        reached = max(places) + size
    return reached == len(document)


@FUZZED
@given(data=st.data())
def test_fuzz_offsets_are_of_the_characters_that_the_tokens_are_from(foreign: EncT5Tokenizer, data: Any) -> None:
    pieces = [*FOREIGN, "e\u0301"]  # two characters that are normalised to one
    texts = st.lists(st.sampled_from(pieces), min_size=20, max_size=80)
    gaps = data.draw(st.sampled_from([" ", "  ", "\u3000", " \t"]))
    text = gaps.join(data.draw(texts))
    windows = foreign.encode_windows(["wing"], [text], max_length=data.draw(st.integers(16, 60)))
    for ids, (start, end) in zip(parts(foreign, windows, 0, "wing"), windows.spans.tolist(), strict=True):
        assert foreign.decode(foreign.encode_texts([text[start:end]])[0]) == foreign.decode(ids).strip()


def test_a_text_in_blocks_has_the_ids_and_characters_of_the_whole(
    foreign: EncT5Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "  ".join(FOREIGN * 30) + " </s> wing  <pad>fin 12 </s>"
    (whole,), spans = foreign.encode_texts([text]), foreign._spans(text)
    monkeypatch.setattr(text_tokenizer, "CHARACTERS_PER_BLOCK", (50, 9_999))
    assert len(list(foreign._blocks(text))) > 20
    assert foreign._encode_in_blocks(text).tolist() == whole
    ends = foreign._spans(text)[:, 1].tolist()
    assert ends == spans[:, 1].tolist()
    assert [text[start:end] for start, end in foreign._spans(text)[-8:].tolist()][-1] == "</s>"


def test_a_text_without_spaces_is_cut_all_the_same(foreign: EncT5Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "flügel" * 100
    monkeypatch.setattr(text_tokenizer, "CHARACTERS_PER_BLOCK", (10, 60))
    blocks = list(foreign._blocks(text))
    assert blocks == [(begin, "flügel" * 10, None) for begin in range(0, 600, 60)]
    windows = foreign.encode_windows(["wing"], [text], max_length=64)
    assert [windows.spans[0, 0], windows.spans[-1, 1]] == [0, len(text)]
    assert (windows.spans[1:, 0] <= windows.spans[:-1, 1]).all()


def test_a_vocabulary_without_a_space_in_front_of_texts_is_not_cut(tmp_path: Path) -> None:
    tokenizer = train(tmp_path, [" ".join(WORDS)] * 9, vocab_size=60, add_dummy_prefix=False)
    text = " ".join(WORDS * 300)
    assert list(tokenizer._blocks(text)) == [(0, text, None)]
    last = parts(tokenizer, tokenizer.encode_windows(["wing"], [text], max_length=64), 0, "wing")[-1]
    assert last == tokenizer.encode_texts([text])[0][-len(last) :]


# The best window


def windows_of(*counts: int) -> EncodedWindows:
    """Pairs with so many windows; window ``i`` of all is the one token ``i``, and covers character ``i``."""
    total = sum(counts)
    rows = EncodedPairs(np.arange(total, dtype=np.int32), np.arange(total + 1), np.zeros(total, bool))
    spans = np.stack([np.arange(total), np.arange(total) + 1], axis=1)
    return EncodedWindows(rows, np.cumsum([0, *counts]), spans)


def test_the_best_window_is_the_first_with_the_highest_margin() -> None:
    windows = windows_of(1, 3, 2, 4)
    margin = np.array([-9, -5, -2, -2, 7, 6, 1, np.nan, 5, np.inf], np.float32)
    best = windows.best(margin)
    assert best.tolist() == [0, 2, 4, 7]  # what is no number is not hidden
    told = windows.describe(best)
    assert (told.index.tolist(), told.count.tolist()) == ([0, 1, 0, 1], [1, 3, 2, 4])
    assert (told.start.tolist(), told.end.tolist()) == ([0, 2, 4, 7], [1, 3, 5, 8])
    assert windows_of(2).best(np.array([1, -np.inf], np.float32)).tolist() == [1]


def test_pairs_are_taken_and_put_together_with_all_their_windows() -> None:
    windows = windows_of(1, 3, 2, 4)
    taken = windows.take(np.array([3, 1]))
    assert taken.rows.input_ids.tolist() == [6, 7, 8, 9, 1, 2, 3]
    assert (taken.starts.tolist(), taken.lengths.tolist()) == ([0, 4, 7], [4, 3])
    assert taken.spans[:, 0].tolist() == [6, 7, 8, 9, 1, 2, 3]
    whole = EncodedWindows.concatenate([taken, windows.take(np.array([], np.int64)), windows.take(np.array([0]))])
    assert whole.rows.input_ids.tolist() == [6, 7, 8, 9, 1, 2, 3, 0]
    assert whole.starts.tolist() == [0, 4, 7, 8]
    assert len(EncodedWindows.concatenate([])) == 0
