"""Drop-in replacements for the calls that training scripts make."""
