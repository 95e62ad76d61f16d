"""jobs.rerank on the running Python's own standard library. Downloads nothing.

A query is what a docstring says of a function. It is asked twice: for the function's code, and for the rest of its
documentation; both lie in one corpus. The candidates are BM25's best 50. The model came with the package: it is small,
was trained on other packages (tart_ray/demo/model/README.md), and learns from the instruction which of both is wanted.
"""
