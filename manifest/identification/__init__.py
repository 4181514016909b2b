"""Which architecture a file's tensors are of, by their names and shapes."""
