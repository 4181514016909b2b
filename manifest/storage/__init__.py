"""Files on disk: bounded reading, durable writing, and the sidecars of a checkpoint."""
