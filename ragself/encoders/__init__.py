"""Encoders: texts to base vectors, each text encoded once."""
