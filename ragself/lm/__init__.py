"""Language models: likelihood of a text given a document, by counted words, transformers or vLLM."""
