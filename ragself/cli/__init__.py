"""The command line, with the demo and the benchmark that it runs."""
