"""Whether weights were trained, told from their values."""
