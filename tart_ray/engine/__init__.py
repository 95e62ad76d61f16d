"""All of Ray: joining a cluster, running stages on it, and ending when it or the lease is lost."""
