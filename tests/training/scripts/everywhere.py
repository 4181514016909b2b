"""One small model, saved by this process and by others that it starts in each of the ways there are."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import torch
from own_networks import Perceptron


def save(name: str) -> None:
    torch.manual_seed(0)
    model = Perceptron()
    torch.save(model.state_dict(), f"{name}.pt")


def main() -> None:
    ways = sys.argv[1:]
    for way in ways:
        if way == "fork":
            child = os.fork()
            if not child:
                save("fork")
                os._exit(3)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        elif way in ("process-by-fork", "process-by-spawn"):
            process = multiprocessing.get_context(way.rpartition("-")[2]).Process(target=save, args=(way,))
            process.start()
            process.join()
            assert process.exitcode == 0
        elif way == "pool":
            with multiprocessing.get_context("fork").Pool(1) as pool:
                pool.map(save, ["pool"])
                pool.close()
                pool.join()
        elif way == "subprocess":
            subprocess.run([sys.executable, __file__, "plainly"], check=True)
        elif way == "plainly":
            save("plainly")
        elif way == "exec":
            save("before-exec")
            os.execv(sys.executable, [sys.executable, "-c", "print('another program')"])
        elif way == "exit":
            save("before-exit")
            os._exit(7)


if __name__ == "__main__":
    main()
