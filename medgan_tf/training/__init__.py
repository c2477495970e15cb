"""Algorithm 1, and the run round it."""
