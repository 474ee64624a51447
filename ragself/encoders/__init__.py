"""Encoders: compute base vectors of texts. Each text is encoded once."""
