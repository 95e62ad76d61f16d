"""Jobs on a Ray cluster. The only package that imports Ray; rows, models and ranking come from the packages beside it."""
