"""The use cases, each one readable page: saving, creating, verifying, loading."""
