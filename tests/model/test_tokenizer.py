"""Ids equal to the original's, truncation, special tokens in raw text, and transformers' calling conventions."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer, sentencepiece_model_pb2

from tart_ray import EncT5Tokenizer
from tart_ray.errors import CheckpointError
from tart_ray.model import segmentation
from tart_ray.model.encoded import EncodedPairs
from tart_ray.model.text_tokenizer import words_are_independent
from tart_ray.model.texts import join_instruction
from tart_ray.model.truncation import QueryTooLongError, longest_first

PIECES, BOS, EOS, PAD = 80, 180, 1, 0  # tiny_checkpoint: 80 pieces, 100 sentinels, then <s>


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint: Path) -> EncT5Tokenizer:
    return EncT5Tokenizer.from_pretrained(tiny_checkpoint)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> Any:
    """Ids that sentencepiece itself gives a text."""
    pieces = SentencePieceProcessor(model_file=str(tiny_checkpoint / "spiece.model"))
    return pieces.encode


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> list[dict[str, Any]]:
    pairs: list[dict[str, Any]] = json.loads((shared_data / "golden_pairs.json").read_text())
    assert len(pairs) == 89
    return pairs


def copy_without(checkpoint: Path, folder: Path, *names: str) -> Path:
    return Path(shutil.copytree(checkpoint, folder, ignore=shutil.ignore_patterns(*names)))


# Golden ids


def test_ids_equal_the_originals(shared_data: Path, golden: list[dict[str, Any]]) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    queries = [join_instruction(pair["instruction"], pair["query"]) for pair in golden]
    encoded = tokenizer.encode_pairs(queries, [pair["document"] for pair in golden])
    assert [encoded.row(i).tolist() for i in range(len(encoded))] == [pair["input_ids"] for pair in golden]


def test_runs_of_punctuation_have_the_ids_of_training(shared_data: Path) -> None:
    """Several segmentations of such a run are equally good, and sentencepiece 0.2.2 began to take another one."""
    ties: list[dict[str, Any]] = json.loads((shared_data / "golden_ties.json").read_text())
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    assert len(ties) == 120
    assert tokenizer.encode_texts([tie["text"] for tie in ties]) == [tie["ids"] for tie in ties]


RUNS = {  # what sentencepiece 0.1.97 to 0.2.1 give with T5's vocabulary
    "..........": [3, 19794, 5, 5],
    "-----------": [1636, 14817, 14817, 14817],
    "_____________": [31020, 22319, 834],
    "!!!!!!!": [3, 1603, 17065],
    "Contents .......... 12": [7185, 7, 3, 19794, 5, 5, 586],
    "a ------- b ___________ c": [3, 9, 3, 14817, 14817, 18, 3, 115, 3, 834, 22319, 834, 834, 834, 3, 75],
    "Section 3.2 ............................ 41": [5568, 3, 19162, 3, 19794, 2824, 22354, 8798],
    "Kapitel !!!!!!!!! and more": [31130, 3, 12887, 17065, 11, 72],
}


def test_runs_of_dots_hyphens_underscores_and_exclamation_marks(shared_data: Path) -> None:
    tokenizer = EncT5Tokenizer(shared_data / "t5" / "spiece.model")
    assert tokenizer.encode_texts([*RUNS]) == [*RUNS.values()]
    windows = tokenizer.encode_windows(["q"] * len(RUNS), [*RUNS])  # they take spans from sentencepiece, too
    assert [
        windows.rows.row(i)[len(windows.rows.row(i)) - len(ids) - 1 : -1].tolist()
        for i, ids in enumerate(RUNS.values())
    ] == [*RUNS.values()]


def test_t5s_vocabulary_is_tried_with_texts_that_other_releases_cut_in_another_way(shared_data: Path) -> None:
    ties = {tie["text"]: tie["ids"] for tie in json.loads((shared_data / "golden_ties.json").read_text())}
    assert {text: ties[text] for text in segmentation.TIES} == segmentation.TIES
    vocabulary = (shared_data / "t5" / "spiece.model").read_bytes()
    assert hashlib.sha256(vocabulary).hexdigest() == segmentation.T5_VOCABULARY
    pieces = SentencePieceProcessor(model_proto=vocabulary)
    segmentation.check_ties(pieces, vocabulary)
    cut = sentencepiece_model_pb2.ModelProto.FromString(vocabulary)
    (dots,) = (piece for piece in cut.pieces if piece.piece == "....")
    dots.score += 10  # stands for a release that takes another of the segmentations: a processor of other scores
    other = SentencePieceProcessor(model_proto=cut.SerializeToString())
    with pytest.raises(CheckpointError, match=r"gives .* the ids .*expected .*pip install 'sentencepiece<=0\.2\.1'"):
        segmentation.check_ties(other, vocabulary)
    segmentation.check_ties(other, b"another vocabulary")  # of which nothing is known


@pytest.mark.parametrize("release", ["0.2.2", "0.2.3.dev1", "0.3", "1.0.0"])
def test_a_release_of_sentencepiece_that_cuts_ties_in_another_way_is_refused(release: str) -> None:
    with pytest.raises(CheckpointError, match=rf"got sentencepiece {release}, expected 0\.2\.1 or older.*pip install"):
        segmentation.check_release(release)


@pytest.mark.parametrize("release", ["0.1.97", "0.1.99", "0.2.0", "0.2.1"])
def test_older_releases_of_sentencepiece_do(release: str) -> None:
    segmentation.check_release(release)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.encode_pairs(["q", None], ["a", "b"]), TypeError, r"queries\[1\]: got None"),
        (lambda t: t.encode_pairs(["q"], [float("nan")]), TypeError, r"documents\[0\]: got nan"),
        (lambda t: t.encode_pairs("q", "d"), TypeError, r"queries: got 'q' \(str\), expected a list"),
        (lambda t: t.encode_windows(["q"], ["a\ud83d"]), ValueError, r"documents\[0\]: got '\\ud83d' at character 1"),
        (lambda t: t.encode_texts(["a", 7]), TypeError, r"texts\[1\]: got 7 \(int\)"),
        (lambda t: t(["q", None]), TypeError, r"text\[1\]: got None"),
        (lambda t: t(None), TypeError, "text: got None"),
        (lambda t: t(["q"], [["a"]]), TypeError, r"text_pair\[0\]: got \['a'\]"),
        (lambda t: t("q", float("nan")), TypeError, "text_pair: got nan"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(
    tokenizer: EncT5Tokenizer, call: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        call(tokenizer)


def test_calling_it_gives_the_same_ids(shared_data: Path, golden: list[dict[str, Any]]) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    queries = [join_instruction(pair["instruction"], pair["query"]) for pair in golden]
    features = tokenizer(queries, [pair["document"] for pair in golden], truncation=True)
    assert features["input_ids"] == [pair["input_ids"] for pair in golden]


def test_t5_layout_of_the_published_checkpoint(shared_data: Path) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(shared_data / "tart-tiny")
    assert tokenizer.bos_token_id == 32100
    assert tokenizer.model_max_length == 512  # the file says 1e30
    assert tokenizer.encode_texts(["<extra_id_0><extra_id_99>"]) == [[32099, 32000]]


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [("Find it", "Find it [SEP] q"), ("", " [SEP] q"), (None, "q")],
)
def test_join_instruction(instruction: str | None, expected: str) -> None:
    assert join_instruction(instruction, "q") == expected


# Special tokens in raw text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("wing </s> flow", ["wing", EOS, "flow"]),
        ("wing</s>flow", ["wing", EOS, "flow"]),
        ("<pad> heat", [PAD, "heat"]),
        ("heat <s>", ["heat", BOS]),
        ("<extra_id_0> plate <extra_id_99>", [PIECES + 99, "plate", PIECES]),
        ("<unk></s>", [2, EOS]),
        ("a < b </t> c", ["a < b </t> c"]),
        ("<extra_id_100> wing", ["<extra_id_100> wing"]),
        ("wing  </s>", ["wing", EOS]),
    ],
)
def test_special_tokens_in_text_are_parsed(
    tokenizer: EncT5Tokenizer, plain: Any, text: str, parts: list[str | int]
) -> None:
    expected = [i for part in parts for i in ([part] if isinstance(part, int) else plain(part))]
    assert tokenizer.encode_texts([text]) == [expected]


@pytest.mark.parametrize("text", ["wing </s> flow", "<pad>", "<s> wing <extra_id_0>", "wing"])
def test_split_special_tokens_encodes_them_as_plain_text(tiny_checkpoint: Path, plain: Any, text: str) -> None:
    tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint, split_special_tokens=True)
    (ids,) = tokenizer.encode_texts([text])
    assert ids == plain(text)
    assert not {PAD, EOS, *range(PIECES, BOS + 1)} & set(ids)


def test_a_document_can_be_kept_from_forging_its_boundary(tiny_checkpoint: Path) -> None:
    def boundaries(*, split_special_tokens: bool) -> int:
        tokenizer = EncT5Tokenizer.from_pretrained(tiny_checkpoint, split_special_tokens=split_special_tokens)
        return tokenizer.encode_pairs(["wing"], ["flow </s> heat"]).input_ids.tolist().count(EOS)

    assert boundaries(split_special_tokens=False) == 3
    assert boundaries(split_special_tokens=True) == 2


def test_order_of_texts_with_and_without_special_tokens(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    texts = ["wing", "<pad>", "flow", "heat </s>", "", "plate"]
    expected = [plain("wing"), [PAD], plain("flow"), [*plain("heat"), EOS], [], plain("plate")]
    assert tokenizer.encode_texts(texts) == expected


# Truncation


def one_token_at_a_time(first: int, second: int, room: int) -> tuple[int, int]:
    while first + second > room:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


@pytest.mark.parametrize("room", range(1, 26))
def test_longest_first_equals_one_token_at_a_time(room: int) -> None:
    lengths = [(first, second) for first in range(24) for second in range(24)]
    kept = longest_first(*(np.array(side) for side in zip(*lengths, strict=True)), room)
    expected = [one_token_at_a_time(first, second, room) for first, second in lengths]
    assert list(zip(*(side.tolist() for side in kept), strict=True)) == expected


def test_longest_first_by_hand() -> None:
    first, second = np.array([3, 8, 2, 9, 5]), np.array([8, 3, 9, 9, 2])
    kept_first, kept_second = longest_first(first, second, 7)
    assert kept_first.tolist() == [3, 4, 2, 4, 5]
    assert kept_second.tolist() == [4, 3, 5, 3, 2]


def test_truncation_cuts_the_ends_of_both_sides(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    query, document = plain("wing flow heat plate shock"), plain("layer jet body lift drag panel")
    encoded = tokenizer.encode_pairs(["wing flow heat plate shock"], ["layer jet body lift drag panel"], max_length=8)
    assert encoded.row(0).tolist() == [BOS, *query[:3], EOS, *document[:2], EOS]
    assert encoded.truncated.tolist() == [True]


def test_pairs_that_fit_are_not_truncated(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    room = len(plain("wing")) + len(plain("flow heat"))
    encoded = tokenizer.encode_pairs(["wing", "wing"], ["flow heat", "flow heat plate"], max_length=room + 3)
    assert encoded.truncated.tolist() == [False, True]
    assert encoded.lengths.tolist() == [room + 3, room + 3]


def test_only_document_keeps_the_query_whole(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    query, document = plain("wing flow heat plate shock"), plain("layer jet body")
    encoded = tokenizer.encode_pairs(
        ["wing flow heat plate shock"], ["layer jet body"], max_length=len(query) + 5, truncation="only_document"
    )
    assert encoded.row(0).tolist() == [BOS, *query, EOS, *document[:2], EOS]


def test_only_document_names_the_rows_whose_query_leaves_no_room(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    long = "wing flow heat plate shock"
    with pytest.raises(QueryTooLongError, match="2 pairs") as caught:
        tokenizer.encode_pairs(
            ["wing", long, "wing", long], ["heat"] * 4, max_length=len(plain(long)) + 3, truncation="only_document"
        )
    assert caught.value.rows == [1, 3]


def test_only_document_lets_a_query_fill_the_row_when_the_document_is_empty(
    tokenizer: EncT5Tokenizer, plain: Any
) -> None:
    ids = plain("wing flow")
    encoded = tokenizer.encode_pairs(["wing flow"], [""], max_length=len(ids) + 3, truncation="only_document")
    assert encoded.row(0).tolist() == [BOS, *ids, EOS, EOS]


@pytest.mark.parametrize("max_length", [1, 3])
def test_max_length_must_leave_room_for_text(tokenizer: EncT5Tokenizer, max_length: int) -> None:
    with pytest.raises(ValueError, match=f"max_length: got {max_length}, expected more than the 3"):
        tokenizer.encode_pairs(["wing"], ["flow"], max_length=max_length)


# Long texts, of which only the beginning is tokenised

ODD = [
    " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u2009", "\x00", "\x1c", "\x85", "▁", "▁▁", " ▁a",
    "é", "e\u0301", "\u0301", "ﬁ", "ﷺ", "漢字", "한글", "ㅎㅏㄴ", "अनुच्छेद", "🌊", "👩\u200d👩\u200d👧", "½", "Ⅷ", "¨",
    "a\u0308", "\ufeff",
    "</s>", "<pad>", " </s> ", "<s>", "<unk>", "<extra_id_0>", "<extra_id_100>", "</", "s>", "<", ">", "<extra_id_ 5>",
    ".", ",", "!?", "-", "0", "12345", "3.14", "A", "Z", "x" * 40, "wing", "flow", "heat", "plate", "shock", "layer",
]  # fmt: skip


def odd_text(draw: random.Random) -> str:
    """A text with pieces of `ODD`, in a mood: mostly words, mostly white space, no spaces at all …"""
    spaces, odd = draw.choice([0.0, 0.3, 0.9]), draw.choice([0.02, 0.3, 1.0])
    parts = []
    for _ in range(draw.choice([1, 5, 60, 300])):
        parts.append(draw.choice(ODD) if draw.random() < odd else draw.choice(ODD[-6:]))
        if draw.random() < spaces:
            parts.append(" " * draw.choice([1, 1, 1, 2, 30]))
    return "".join(parts)


def assert_as_if_whole(tokenizer: EncT5Tokenizer, texts: list[str], max_length: int) -> int:
    """Pairs are encoded as if their whole texts were tokenised; returns how many were truncated."""
    queries, documents = texts[::2], texts[1::2]
    encoded = tokenizer.encode_pairs(queries, documents, max_length=max_length)
    for row, pair in enumerate(zip(queries, documents, strict=True)):
        first, second = tokenizer.encode_texts(pair)
        kept = one_token_at_a_time(len(first), len(second), max_length - 3)
        assert encoded.row(row).tolist() == [
            tokenizer.bos_token_id, *first[: kept[0]], EOS, *second[: kept[1]], EOS,
        ], pair  # fmt: skip
        assert encoded.truncated[row] == (kept != (len(first), len(second))), pair
    short = [i for i, ids in enumerate(tokenizer.encode_texts(queries)) if len(ids) < max_length - 3]
    only = tokenizer.encode_pairs(
        [queries[i] for i in short], [documents[i] for i in short], max_length=max_length, truncation="only_document"
    )
    for row, i in enumerate(short):
        first, second = tokenizer.encode_texts([queries[i], documents[i]])
        kept_document = max_length - 3 - len(first)
        assert only.row(row).tolist() == [tokenizer.bos_token_id, *first, EOS, *second[:kept_document], EOS]
        assert only.truncated[row] == (len(second) > kept_document)
    return int(encoded.truncated.sum())


@pytest.mark.parametrize("split_special_tokens", [False, True])
@pytest.mark.parametrize("vocabulary", ["t5", "tiny"])
def test_long_texts_are_encoded_as_if_they_were_tokenised_whole(
    request: pytest.FixtureRequest, vocabulary: str, split_special_tokens: bool
) -> None:
    if vocabulary == "t5":
        folder = request.getfixturevalue("shared_data") / "tart-tiny"
    else:
        folder = request.getfixturevalue("tiny_checkpoint")
    tokenizer = EncT5Tokenizer.from_pretrained(folder, split_special_tokens=split_special_tokens)
    assert words_are_independent(tokenizer._pieces)
    draw = random.Random(vocabulary)
    truncated = [
        assert_as_if_whole(tokenizer, [odd_text(draw) for _ in range(40)], draw.choice([4, 5, 8, 13, 40])) * (row or 1)
        for row in range(40)
    ]
    assert min(truncated) > 0


def test_a_text_that_just_fits_and_one_that_just_does_not(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    text = " ".join(["wing"] * 100)
    length = len(plain(text))
    for room in (length - 1, length, length + 1):
        encoded = tokenizer.encode_pairs([""], [text + " " * 10_000], max_length=room + 3)
        assert encoded.lengths.tolist() == [min(room, length) + 3]
        assert encoded.truncated.tolist() == [room < length]
        encoded = tokenizer.encode_pairs([""], [" " * 100_000 + text], max_length=room + 3)
        assert encoded.row(0).tolist() == [BOS, EOS, *plain(text)[:room], EOS]
        assert encoded.truncated.tolist() == [room < length]


def trained(folder: Path, sentences: list[str], **options: Any) -> EncT5Tokenizer:
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2}
    prefix = str(folder / "other")
    SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_prefix=prefix, vocab_size=80, **ids, **options)
    return EncT5Tokenizer(prefix + ".model")


@pytest.mark.parametrize(
    ("options", "rule", "independent"),
    [
        ({}, None, True),
        ({"normalization_rule_name": "identity"}, None, True),
        ({"model_type": "bpe"}, None, True),
        ({"user_defined_symbols": ["wing flow"]}, None, False),
        ({"treat_whitespace_as_suffix": True}, None, False),
        ({"split_by_whitespace": False, "max_sentencepiece_length": 8}, None, False),
        ({}, "wing flow\tw", False),
        ({}, "wing \tw", False),
        ({}, " flow\tf", False),
        ({}, " \tx", False),
        ({}, "wing\tw", True),
    ],
)
def test_vocabularies_whose_words_are_not_independent_take_every_text_whole(
    sentences: list[str], tmp_path: Path, options: dict[str, Any], rule: str | None, independent: bool
) -> None:
    if rule is not None:
        source, target = ([f"{ord(letter):X}" for letter in side] for side in rule.split("\t"))
        (tmp_path / "rules.tsv").write_text(f"{' '.join(source)}\t{' '.join(target)}\n")
        options = {**options, "normalization_rule_tsv": str(tmp_path / "rules.tsv")}
    tokenizer = trained(tmp_path, sentences, **options)
    assert words_are_independent(tokenizer._pieces) is independent
    texts = [" ".join(sentences[i::20]) for i in range(20)] + ["wing flow " * 200, "heat wing " * 200]
    assert assert_as_if_whole(tokenizer, texts, 13) == 11


# The batch form


def test_encode_pairs_is_flat_with_offsets(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    rows = [[BOS, *plain(a), EOS, *plain(b), EOS] for a, b in [("wing", "flow"), ("wing", ""), ("", "heat plate")]]
    encoded = tokenizer.encode_pairs(["wing", "wing", ""], ["flow", "", "heat plate"])
    assert encoded.input_ids.tolist() == list(itertools.chain(*rows))
    assert encoded.input_ids.dtype == np.int32
    assert encoded.lengths.tolist() == [len(row) for row in rows]
    assert encoded.offsets.tolist() == [0, len(rows[0]), len(rows[0]) + len(rows[1]), sum(map(len, rows))]


def test_encode_no_pairs(tokenizer: EncT5Tokenizer) -> None:
    encoded = tokenizer.encode_pairs([], [])
    assert (len(encoded), encoded.offsets.tolist(), encoded.input_ids.tolist()) == (0, [0], [])
    assert encoded.truncated.shape == (0,)


def test_unequal_lists_are_refused(tokenizer: EncT5Tokenizer) -> None:
    with pytest.raises(ValueError, match="got 2 queries and 1 documents"):
        tokenizer.encode_pairs(["wing", "flow"], ["heat"])
    with pytest.raises(ValueError, match="got 1 queries and 2 documents"):
        tokenizer("wing", ["flow", "heat"])


def test_threads_do_not_change_ids(tiny_checkpoint: Path, tokenizer: EncT5Tokenizer, sentences: list[str]) -> None:
    threaded = EncT5Tokenizer.from_pretrained(tiny_checkpoint, num_threads=2)
    assert threaded.encode_texts(sentences) == tokenizer.encode_texts(sentences)


# transformers' calling conventions


def test_a_single_text_gives_one_unbatched_row(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    features = tokenizer("wing flow")
    assert features["input_ids"] == [BOS, *plain("wing flow"), EOS]
    assert features["attention_mask"] == [1] * len(features["input_ids"])


def test_a_single_pair_gives_one_unbatched_row(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    assert tokenizer("wing", "flow")["input_ids"] == [BOS, *plain("wing"), EOS, *plain("flow"), EOS]


def test_lists_without_padding_keep_their_lengths(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    features = tokenizer(["wing", "wing flow heat"], ["flow", "plate"])
    expected = [[BOS, *plain(a), EOS, *plain(b), EOS] for a, b in [("wing", "flow"), ("wing flow heat", "plate")]]
    assert features["input_ids"] == expected
    assert features["attention_mask"] == [[1] * len(row) for row in expected]


@pytest.mark.parametrize("padding", [True, "longest"])
def test_padding_to_the_longest(tokenizer: EncT5Tokenizer, padding: Any) -> None:
    short, long = tokenizer(["wing", "wing flow heat"])["input_ids"]
    missing = len(long) - len(short)
    features = tokenizer(["wing", "wing flow heat"], padding=padding)
    assert features["input_ids"] == [short + [PAD] * missing, long]
    assert features["attention_mask"] == [[1] * len(short) + [0] * missing, [1] * len(long)]


def test_padding_to_max_length(tokenizer: EncT5Tokenizer) -> None:
    (row,) = tokenizer(["wing"])["input_ids"]
    features = tokenizer(["wing"], padding="max_length", max_length=20)
    assert features["input_ids"] == [row + [PAD] * (20 - len(row))]
    assert len(tokenizer(["wing"], padding="max_length")["input_ids"][0]) == 512


def test_padding_to_a_multiple(tokenizer: EncT5Tokenizer) -> None:
    row = tokenizer("wing flow heat")["input_ids"]
    assert 3 < len(row) <= 64
    features = tokenizer(["wing flow heat"], padding=True, pad_to_multiple_of=64, return_tensors="np")
    assert features["input_ids"].shape == (1, 64)
    assert features["attention_mask"].sum() == len(row)


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_tensors(tokenizer: EncT5Tokenizer, return_tensors: Any) -> None:
    arguments: Any = (["wing", "wing flow"], ["heat", "plate"])
    lists = tokenizer(*arguments, padding=True)
    tensors = tokenizer(*arguments, padding=True, return_tensors=return_tensors)
    assert set(tensors) == {"input_ids", "attention_mask"}
    for name, value in tensors.items():
        assert isinstance(value, torch.Tensor if return_tensors == "pt" else np.ndarray)
        assert value.dtype == (torch.int64 if return_tensors == "pt" else np.int64)
        assert value.tolist() == lists[name]


def test_a_single_text_is_a_batch_of_one_with_tensors(tokenizer: EncT5Tokenizer) -> None:
    assert tokenizer("wing", return_tensors="pt")["input_ids"].ndim == 2


@pytest.mark.parametrize("return_tensors", [None, "pt", "np"])
def test_an_empty_batch(tokenizer: EncT5Tokenizer, return_tensors: Any) -> None:
    features = tokenizer([], [], padding=True, truncation=True, return_tensors=return_tensors)
    assert len(features["input_ids"]) == len(features["attention_mask"]) == 0


def test_truncation_is_off_unless_asked_for(tokenizer: EncT5Tokenizer) -> None:
    text = "wing flow " * 600
    assert len(tokenizer(text, "heat")["input_ids"]) > 1000
    assert len(tokenizer(text, "heat", truncation=True)["input_ids"]) == 512
    assert len(tokenizer(text, "heat", truncation=True, max_length=32)["input_ids"]) == 32
    assert len(tokenizer(text, truncation=True, max_length=32)["input_ids"]) == 32


def test_only_second_is_transformers_name_for_only_document(tokenizer: EncT5Tokenizer, plain: Any) -> None:
    document = "flow heat plate " * 20
    features = tokenizer("wing", document, truncation="only_second", max_length=12)
    kept = 12 - 3 - len(plain("wing"))
    assert features["input_ids"] == [BOS, *plain("wing"), EOS, *plain(document)[:kept], EOS]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"truncation": "longest"}, "truncation: got 'longest', expected one of"),
        ({"padding": "longst"}, "padding: got 'longst', expected one of"),
        ({"truncation": True, "max_length": 2}, "max_length: got 2, expected more than the 2 special tokens"),
    ],
)
def test_wrong_options_are_refused(tokenizer: EncT5Tokenizer, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(["wing flow heat"], **option)


def test_pad_pads_encoded_rows(tokenizer: EncT5Tokenizer) -> None:
    features = tokenizer.pad({"input_ids": [[5, 6, 7], [8]]}, return_tensors="pt")
    assert features["input_ids"].tolist() == [[5, 6, 7], [8, PAD, PAD]]
    assert features["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


# Back to text


def test_decode(tokenizer: EncT5Tokenizer) -> None:
    ids = tokenizer("wing flow", "heat <extra_id_3> plate", padding=False)["input_ids"]
    assert tokenizer.decode(ids) == "<s> wing flow </s> heat <extra_id_3> plate </s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "wing flow heat plate"


def test_batch_decode_takes_tensors(tokenizer: EncT5Tokenizer) -> None:
    rows = tokenizer(["wing", "wing flow"], ["heat", ""], padding=True, return_tensors="pt")["input_ids"]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == ["wing heat", "wing flow"]


# Files


def test_save_and_load(tokenizer: EncT5Tokenizer, sentences: list[str], tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path / "a" / "b")
    loaded = EncT5Tokenizer.from_pretrained(tmp_path / "a" / "b")
    loaded.save_pretrained(tmp_path / "a" / "b")  # on its own files
    again = EncT5Tokenizer.from_pretrained(tmp_path / "a" / "b")
    texts = [*sentences[:50], "<s> wing </s>", "<extra_id_7>"]
    assert loaded.encode_texts(texts) == again.encode_texts(texts) == tokenizer.encode_texts(texts)
    assert (again.bos_token_id, len(again), again.model_max_length) == (BOS, BOS + 1, 512)


def test_bos_and_sentinels_come_from_the_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    vocabulary = tiny_checkpoint / "spiece.model"
    EncT5Tokenizer(vocabulary, extra_ids=10, bos_token_id=95, model_max_length=77).save_pretrained(tmp_path)
    loaded = EncT5Tokenizer.from_pretrained(tmp_path)
    assert loaded.encode_texts(["<s><extra_id_0><extra_id_9>"]) == [[95, PIECES + 9, PIECES]]
    assert loaded.model_max_length == 77
    assert EncT5Tokenizer.from_pretrained(tmp_path, model_max_length=9).model_max_length == 9


def test_without_added_tokens_the_bos_follows_the_sentinels(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_checkpoint, tmp_path / "bare", "added_tokens.json", "*token*")
    assert EncT5Tokenizer.from_pretrained(folder).bos_token_id == BOS


def test_a_bos_in_added_tokens_decoder_is_found(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_checkpoint, tmp_path / "new", "added_tokens.json")
    config = {"added_tokens_decoder": {"200": {"content": "<s>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert EncT5Tokenizer.from_pretrained(folder).bos_token_id == 200


def test_a_missing_vocabulary_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_checkpoint, tmp_path / "bare", "spiece.model")
    with pytest.raises(CheckpointError, match=r"no spiece\.model .*found \[.*'config\.json'"):
        EncT5Tokenizer.from_pretrained(folder)


def test_a_vocabulary_that_is_not_t5s_is_refused(sentences: list[str], tmp_path: Path) -> None:
    prefix = str(tmp_path / "other")  # sentencepiece's own layout: <unk> 0, <s> 1, </s> 2, no <pad>
    SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_prefix=prefix, vocab_size=PIECES, minloglevel=2)
    with pytest.raises(CheckpointError, match=r"got ids \(-1, 2, 0\) .*expected T5's layout \(0, 1, 2\)"):
        EncT5Tokenizer(prefix + ".model")


def test_a_broken_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"no model" * 100)
    with pytest.raises(CheckpointError, match=r"spiece\.model: not a sentencepiece model"):
        EncT5Tokenizer(tmp_path / "spiece.model")


def test_pairs_are_taken_and_put_together() -> None:
    pairs = EncodedPairs(
        np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 2, 2, 5, 6]), np.array([True, False, False, True])
    )
    taken = pairs.take(np.array([3, 0, 1]))
    assert taken.input_ids.tolist() == [6, 1, 2]
    assert taken.offsets.tolist() == [0, 1, 3, 3]
    assert taken.truncated.tolist() == [True, True, False]
    assert (taken.input_ids.dtype, taken.offsets.dtype, len(pairs.take(np.array([], dtype=np.int64)))) == (
        "i4",
        "i8",
        0,
    )
    whole = EncodedPairs.concatenate([taken, pairs.take(np.array([2]))])
    assert whole.input_ids.tolist() == [6, 1, 2, 3, 4, 5]
    assert whole.offsets.tolist() == [0, 1, 3, 3, 6]
    assert whole.truncated.tolist() == [True, True, False, False]
    assert len(EncodedPairs.concatenate([])) == 0
