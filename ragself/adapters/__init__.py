"""Adapters: trained changes of the encoder's vectors; and rankings, which combine an adapter with lexical weights."""
