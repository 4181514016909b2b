"""Several processes that save or verify together."""
