"""The open parts of a knowledge base, and operations on all of its versions."""
