"""Weights put into a module, and how shapes differ."""
