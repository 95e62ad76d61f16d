"""What scores mean: pure functions from Arrow tables to Arrow tables. Knows no torch, no Ray, no storage."""
