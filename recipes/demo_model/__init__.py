"""How the demo's checkpoint is made: data, vocabulary, training, evaluation. No text of the data is shipped."""
