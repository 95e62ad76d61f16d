"""The EncT5 model, its tokenizer, and where their files are. Knows torch and transformers, not Ray."""
