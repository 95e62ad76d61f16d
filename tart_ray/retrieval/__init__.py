"""What retrieval has in common, whoever asks for it: BM25, and measures of rankings. Both need extras."""
