"""Steps that the processes of a group take together: where one of them fails, all of them do, and none waits for it.

Before anything is exchanged that depends on a step, every process tells the others whether it came through. An error
of the exchange itself is another matter: a process is gone, and whoever notices it leaves at once, since to try again
would be to wait for those who have not noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

import torch.distributed as dist

from manifest.errors import GroupError, InputError, ManifestError, one_line

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Failure:
    rank: int
    sentence: str


def rank_here() -> int:
    """Which process of a group this is; 0 outside of one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class ProcessGroup:
    """The processes of a group; one process alone where `torch.distributed` is not in use.

    Args:
        group: The group; all processes when None.

    Attributes:
        rank: Number of this process in the group.
        size: How many processes the group has.

    Raises:
        InputError: This process is not in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        in_use = dist.is_available() and dist.is_initialized()
        self.group = group
        self.rank = dist.get_rank(group) if in_use else 0
        self.size = dist.get_world_size(group) if in_use else 1
        if self.rank < 0:
            raise InputError("This process is not in the process group it was given; call this on its members only.")

    @classmethod
    def alone(cls) -> ProcessGroup:
        """This process by itself, whatever group it is in."""
        together = cls.__new__(cls)
        together.group, together.rank, together.size = None, 0, 1
        return together

    @property
    def first(self) -> bool:
        """Whether this is the process that writes for all."""
        return self.rank == 0

    def everywhere(self, work: Callable[[], _T]) -> _T:
        """What this process made of a step that all of them take.

        Raises:
            GroupError: One of several processes failed, this one or another. A process alone raises its own error.
        """
        result, error = self._attempt(work)
        if self.size == 1:
            return self._own(result, error)
        failures: list[_Failure | None] = [None] * self.size
        mine = self._failure(error)
        self.exchanging(lambda: dist.all_gather_object(failures, mine, group=self.group))
        if failed := next(filter(None, failures), None):
            self._raise(failed, error)
        return cast(_T, result)

    def for_first(self, work: Callable[[], _T]) -> _T | None:
        """What the first process makes of a step for itself; None on the others.

        Raises:
            GroupError: It failed. A process alone raises its own error.
        """
        return self.everywhere(lambda: work() if self.first else None)

    def collect(self, value: _T) -> list[_T]:
        """The values of all processes, by rank, on the first; nothing on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.first else None
        self.exchanging(lambda: dist.gather_object(value, values, group=self.group, group_dst=0))
        return values or []

    def agree(self, mine: bool) -> bool:
        """Whether something holds on all processes."""
        if self.size == 1:
            return mine
        holds = [False] * self.size
        self.exchanging(lambda: dist.all_gather_object(holds, mine, group=self.group))
        return all(holds)

    def on_first(self, work: Callable[[], _T]) -> _T:
        """What the first process makes of a step that it alone takes, on all of them.

        Raises:
            GroupError: It failed. A process alone raises its own error.
        """
        result, error = self._attempt(work) if self.first else (None, None)
        if self.size == 1:
            return self._own(result, error)
        said: list[Any] = [(result, self._failure(error))]
        self.exchanging(lambda: dist.broadcast_object_list(said, group=self.group, group_src=0))
        result, failed = said[0]
        if failed is not None:
            self._raise(failed, error)
        return cast(_T, result)

    def exchanging(self, exchange: Callable[[], _T]) -> _T:
        """What comes of an exchange in which all processes take part.

        Raises:
            GroupError: It broke off.
        """
        try:
            return exchange()
        except RuntimeError as error:
            raise GroupError(
                f"The process group failed on rank {self.rank} of {self.size} ({one_line(error)}), as it does when one "
                "of its processes is gone; look at what that one said last, and start all of them again."
            ) from error

    def fail(self, rank: int, error: BaseException) -> NoReturn:
        """Raise what all processes know of already: the error of one of them."""
        if self.size == 1:
            raise error
        self._raise(_Failure(rank, _sentence(error)), error)

    def _attempt(self, work: Callable[[], _T]) -> tuple[_T | None, Exception | None]:
        try:
            return work(), None
        except Exception as error:  # whatever it is, the others must hear of it
            return None, error

    def _own(self, result: _T | None, error: Exception | None) -> _T:
        if error is not None:
            raise error
        return cast(_T, result)

    def _failure(self, error: Exception | None) -> _Failure | None:
        return None if error is None else _Failure(self.rank, _sentence(error))

    def _raise(self, failed: _Failure, error: BaseException | None) -> NoReturn:
        raise GroupError(f"Rank {failed.rank} of {self.size} failed: {failed.sentence}") from error


def _sentence(error: BaseException) -> str:
    """What went wrong, and what to do."""
    if isinstance(error, ManifestError):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}; no manifest was written, so cure that and do it again."
