"""The inputs that a model is asked."""
