"""How good rankings are: collections, first stages, instructions, metrics, tables. Knows no torch, no Ray."""
