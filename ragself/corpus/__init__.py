"""What is in the knowledge base: files, chunks, words, and the two SQLite files that keep them."""
