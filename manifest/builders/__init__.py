"""Drop-ins for the libraries' own builders, which read the manifest beside the weights."""
