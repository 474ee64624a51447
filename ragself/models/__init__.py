"""What turns text into numbers: the encoder, the adapters on its vectors, the language models that score."""
