"""Training of adapters and of word weights."""
