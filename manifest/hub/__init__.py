"""Checkpoints on a hub that `huggingface_hub` speaks to: they go up and come down together with their manifests."""
