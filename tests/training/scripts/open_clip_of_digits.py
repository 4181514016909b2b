"""`open_clip_train.main`, unchanged, where the small model `digits-clip` is known to open_clip."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import open_clip

if __name__ == "__main__":
    open_clip.add_model_config(Path(__file__).parents[3] / "fixtures" / "digits_clip" / "digits-clip.json")
    sys.argv[0] = "open_clip_train.main"
    runpy.run_module("open_clip_train.main", run_name="__main__", alter_sys=True)
