"""Search by words: an inverted index over the chunks, derived from the journal and built again where it is damaged."""
