"""Vector index: everything that touches Chroma, and hybrid search on top of it."""
