"""timm's own tools, as its training script uses them: an EMA, a checkpoint saver that links, copies and removes."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import torch
from timm import create_model
from timm.utils import CheckpointSaver, ModelEmaV3


def main() -> None:
    torch.manual_seed(0)
    model = create_model("test_resnet", num_classes=4, in_chans=3)
    ema = ModelEmaV3(model, decay=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    saver = CheckpointSaver(
        model,
        optimizer,
        args=SimpleNamespace(model="test_resnet"),
        model_ema=ema,
        checkpoint_dir=sys.argv[1],
        recovery_dir=sys.argv[1],
        max_history=2,
    )
    for epoch in range(4):
        loss = model(torch.randn(4, 3, 64, 64)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.update(model)
        saver.save_checkpoint(epoch, metric=[0.1, 0.4, 0.2, 0.3][epoch])


if __name__ == "__main__":
    main()
