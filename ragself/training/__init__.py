"""Training of adapters and of the weights of words."""
