"""Data parallel training, and then training in shards, in the same processes, which take long to begin."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import torch.distributed as dist
import two_processes
import two_shards


def main() -> None:
    dist.init_process_group("gloo")
    # Each begins and ends a group of its own, and a second one would need another port.
    with patch.object(dist, "init_process_group"), patch.object(dist, "destroy_process_group"):
        two_processes.main()
        sys.argv[1] = str(Path(sys.argv[1]) / "sharded")
        two_shards.main()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
