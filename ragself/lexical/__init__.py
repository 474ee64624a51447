"""Lexical search: an inverted index of the chunks, derived from the journal and rebuilt if it is damaged."""
