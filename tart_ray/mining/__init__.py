"""jobs.mine_negatives: hard negatives and trainers' files out of scores and judgements."""
