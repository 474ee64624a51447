"""Versions: their registry, the pointer to the live one, and locks."""
