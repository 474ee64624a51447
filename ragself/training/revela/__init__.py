"""Revela: training through a language model that sees other chunks of a batch (arXiv 2506.16552)."""
