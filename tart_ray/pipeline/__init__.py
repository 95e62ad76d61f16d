"""Jobs on a Ray cluster: the only package that imports Ray. Rows, models and ranking come from those beside it."""
