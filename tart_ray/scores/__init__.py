"""The score store: input prepared into chunks, chunks scored by replicas, scores read by every job."""
