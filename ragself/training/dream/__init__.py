"""DREAM: training through a language model that reads several documents at once (arXiv 2606.24667)."""
