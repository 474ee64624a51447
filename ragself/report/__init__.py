"""The report: an HTML page about the results of training."""
