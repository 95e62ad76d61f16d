"""One replica: batch planning, the encoder, the Scorer. Knows torch; knows nothing of Ray, files or storage."""
