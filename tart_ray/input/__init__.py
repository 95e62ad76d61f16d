"""Files of the input to rows, each of them good or quarantined with a reason."""
