"""What is recorded of a model: its architecture, weights, surroundings, golden outputs and provenance."""
