"""Golden outputs: what a model said to a fixed probe, recorded so that it can be compared anywhere."""
