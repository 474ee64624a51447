"""Adapters: trained changes of the encoder's vectors, and rankings, which combine one with the weights of words."""
