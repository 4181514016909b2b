"""What identifies a module and its surroundings: its tree, its operators, its environment."""
