"""Plain PyTorch: a network of one's own, an optimizer, a schedule, and a checkpoint an epoch that replaces the last."""

from __future__ import annotations

import argparse
import os

import torch
from own_networks import Perceptron
from torch import nn


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--out", default="out")
    options.add_argument("--fail", action="store_true")
    chosen = options.parse_args()
    os.makedirs(chosen.out, exist_ok=True)  # noqa: PTH103
    torch.manual_seed(0)
    model = Perceptron(width=24, dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, chosen.epochs)
    inputs = torch.randn(64, 8)
    labels = (inputs.sum(1) > 0).long() + (inputs[:, 0] > 1).long()
    for epoch in range(1, chosen.epochs + 1):
        for batch in torch.randperm(64).split(16):
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        torch.save(checkpoint, f"{chosen.out}/tmp.pt")
        os.replace(f"{chosen.out}/tmp.pt", f"{chosen.out}/last.pt")  # noqa: PTH105
        torch.save({"loss": loss.item()}, f"{chosen.out}/metrics.pt")
    if chosen.fail:
        raise RuntimeError("the training itself failed")
    print(f"loss {float(loss):.4f}")


if __name__ == "__main__":
    main()
