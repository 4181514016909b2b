"""How checkpoints are related, told from linear sketches of their weights; see `docs/kinship.md`."""
