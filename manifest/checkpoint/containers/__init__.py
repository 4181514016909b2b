"""One module for each container of tensors."""
