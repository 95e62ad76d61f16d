"""Training an EncT5 to follow instructions: examples, what a step sees, losses, the loop. Knows torch, not Ray."""

# goes up when the same examples give other steps: through examples, sampling, losses, the loop or a new model
TRAINING_VERSION = 1
