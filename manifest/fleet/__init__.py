"""Checks of thousands of checkpoints: by the processes of one machine, or by a cluster.

`manifest.fleet.map` is what the commands are made of. Where the checks are done is an engine (`engines`): a function of
a function, of what it is called with, and of a number of workers. What is kept of them is a journal
(`manifest.storage.journal`).
"""

from manifest.fleet.mapping import map

__all__ = ["map"]
