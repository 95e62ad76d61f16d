"""jobs.rerank: the scores of each query ranked."""
