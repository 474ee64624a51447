"""The command line, and the two whole jobs that it can run: the demo and the benchmark."""
