"""Training an EncT5 to follow instructions: examples, what a step sees, losses, the loop. Knows torch, not Ray."""
