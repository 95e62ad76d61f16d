"""Arrow tables, as all rooms use them: schemas, keys, shared texts, partitions, ranks. Knows no job and no file."""
