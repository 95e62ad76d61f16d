"""A Scorer where other libraries expect a model of theirs: one module a library, which needs that library installed."""
