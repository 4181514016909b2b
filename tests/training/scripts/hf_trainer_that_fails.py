"""A training with transformers' Trainer that raises right after its first save; its argument is where it saves."""

from __future__ import annotations

import sys

import torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainerCallback, TrainingArguments

import manifest


class Failing(TrainerCallback):
    def on_save(self, *_: object, **__: object) -> None:
        raise RuntimeError("out of luck")


sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
Trainer(
    ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes)),
    TrainingArguments(sys.argv[1], max_steps=2, save_steps=1, use_cpu=True, report_to=[]),
    train_dataset=[{"pixel_values": torch.randn(3, 32, 32), "labels": index % 3} for index in range(8)],
    callbacks=[manifest.transformers.ManifestCallback(golden="none"), Failing()],
).train()
