"""The directory of one run: identity, lease, commits, attempts, fragments, report."""
