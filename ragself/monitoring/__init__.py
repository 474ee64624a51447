"""Records of searches, queries, cost and progress."""
