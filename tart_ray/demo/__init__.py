"""A demonstration that needs no download: a collection made of Python's own library, a tiny checkpoint, a metric."""
