"""Contents of a knowledge base: files, chunks, words, and the two SQLite files that store them."""
