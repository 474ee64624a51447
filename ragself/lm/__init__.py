"""Language models that compute the likelihood of a text given a document: word counts, transformers or vLLM."""
