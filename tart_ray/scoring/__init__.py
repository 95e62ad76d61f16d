"""One replica: batch planning, the encoder, the Scorer. Knows torch; knows nothing of Ray, files or storage."""

# of scores: goes up when an encoder, its precision or `Scores` gives the same ids other scores, beyond rounding
SCORING_VERSION = 1
