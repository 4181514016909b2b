"""The rungs of the ladder, one module each, and what they are held against."""
