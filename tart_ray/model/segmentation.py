"""Whether this machine's sentencepiece cuts texts as the one that checkpoints were trained with did.

Several segmentations of a run of one punctuation mark can be equally good. Releases from 0.1.97 to 0.2.1 take the same
one of them, 0.2.2 began to take another, and a checkpoint then reads ids that it was not trained on.
"""

from __future__ import annotations

import hashlib
import re

import sentencepiece

from tart_ray.errors import CheckpointError

NEWEST = (0, 2, 1)  # release of sentencepiece that cuts ties as in training
T5_VOCABULARY = "d60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86"  # SHA-256 of T5's spiece.model
TIES = {  # ids that T5's vocabulary gave in training; 0.2.3 gives other ones for each of these texts
    "Section 3 .......... and more": [5568, 220, 3, 19794, 5, 5, 11, 72],
    "|!!!!!!!|!!!!|": [1820, 17065, 1603, 9175, 12887, 9175],
    "----\nUsage: Kapitel\n----": [3, 14817, 18, 6952, 545, 10, 31130, 3, 14817, 18],
    "__________\nresult x\n__________": [3, 834, 834, 834, 22319, 741, 3, 226, 3, 22319, 834, 834, 834],
    "*************\nContents Total\n*************": [25825, 21905, 1935, 7185, 7, 9273, 25825, 21905, 1935],
    "figure ????????????? -> 7": [2320, 3, 8665, 8665, 8665, 58, 8665, 3, 13114, 489],
}
MEND = "pip install 'sentencepiece<=0.2.1'"


def check_release(release: str = sentencepiece.__version__) -> None:
    """Refuse a release of sentencepiece that breaks ties in another way than training did.

    Raises:
        CheckpointError: it does.
    """
    numbers = tuple(map(int, re.findall(r"\d+", release)[:3]))
    if numbers > NEWEST:
        raise CheckpointError(
            f"got sentencepiece {release}, expected {'.'.join(map(str, NEWEST))} or older: newer releases give runs of "
            f"punctuation other token ids than checkpoints were trained with; on every node: {MEND}"
        )


def check_ties(pieces: sentencepiece.SentencePieceProcessor, vocabulary: bytes) -> None:
    """Refuse a sentencepiece that gives T5's vocabulary other ids than in training; nothing is known of other ones.

    Args:
        vocabulary: the file that ``pieces`` was read from.

    Raises:
        CheckpointError: it does.
    """
    if hashlib.sha256(vocabulary).hexdigest() != T5_VOCABULARY:
        return
    for text, expected in TIES.items():
        found = pieces.encode(text, out_type=int)
        if found != expected:
            raise CheckpointError(
                f"sentencepiece {sentencepiece.__version__} gives {text!r} the ids {found}, expected {expected} as in "
                f"T5's training; on every node: {MEND}"
            )
