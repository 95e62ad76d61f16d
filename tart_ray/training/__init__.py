"""Training an EncT5 to follow instructions: examples, what a step sees, losses, the loop. Knows torch, not Ray."""

# of a training: goes up when the same examples give other steps: examples, sampling, losses, the loop, a new model
TRAINING_VERSION = 1
