"""The report: a page about what training has changed."""
