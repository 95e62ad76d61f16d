"""jobs.relabel: labels of a corpus, version after version, out of scores."""
