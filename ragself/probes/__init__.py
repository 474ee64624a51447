"""Training data: probes, their candidate documents, and likelihoods of both."""
