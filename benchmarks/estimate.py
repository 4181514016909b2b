"""What a fleet would take for 10^5 checkpoints, `docs/estimate.md`, reckoned from the rates in `results.json`.

`python benchmarks/estimate.py` writes the page. Nothing here is measured: measured is what one checkpoint takes one
worker (`rates.py`) and how fast a disk was read (`auditing.py`); all else is assumed, and said on the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rates

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "results.json"
PAGE = _ROOT / "docs" / "estimate.md"

FILES = 100_000
FLEETS = (10, 100, 1_000)


@dataclass(frozen=True)
class Assumed:
    """What no measurement here tells.

    Attributes:
        processors: Of a worker, each with one process.
        network: Bytes a second into a worker.
        store: Bytes a second out of the store of all files.
        requests: That the store answers in a second.
        round_trip: Seconds to it and back.
        start: Seconds until an engine has its workers.
        price: Dollars for an hour of a worker.
    """

    processors: int = 2
    network: float = 1.25e9
    store: float = 50e9
    requests: float = 5_500
    round_trip: float = 0.05
    start: float = 30
    price: float = 0.10


ASSUMED = Assumed()


@dataclass(frozen=True)
class Job:
    """What one checkpoint takes.

    Attributes:
        name: What is done with it.
        work: Seconds of one processor, by what they are spent on.
        started: Seconds until a worker's process is ready, once.
        stored: Bytes read from the store, over the network.
        local: Bytes read from the worker's disk.
        requests: To the store.
        rounds: How many of its answers are waited for one by one.
    """

    name: str
    work: Mapping[str, float]
    started: float
    stored: float = 0
    local: float = 0
    requests: float = 0
    rounds: float = 0


@dataclass(frozen=True)
class Cost:
    """What a fleet takes for all.

    Attributes:
        seconds: From the start to the last result.
        bottleneck: What takes longest.
        parts: Seconds that each part would take by itself.
    """

    seconds: float
    bottleneck: str
    parts: Mapping[str, float] = field(default_factory=dict)


def cost(job: Job, workers: int, disk: float, assumed: Assumed = ASSUMED) -> Cost:
    """What a job takes a fleet for all files.

    A process works on one file at a time: it computes, and waits for the answers of the store. Disks and networks read
    ahead meanwhile, so the slowest of the three says how long it takes, after the start.

    Args:
        job: What one file takes.
        workers: How many there are.
        disk: Bytes that a worker's disk gives in a second.
        assumed: All else.
    """
    processes = workers * assumed.processors
    own = {name: FILES * seconds / processes for name, seconds in job.work.items()}
    own["round trips"] = FILES * job.rounds * assumed.round_trip / processes
    others = {
        "disk": FILES * job.local / disk / workers,
        "network of a worker": FILES * job.stored / assumed.network / workers,
        "bandwidth of the store": FILES * job.stored / assumed.store,
        "requests that the store answers": FILES * job.requests / assumed.requests,
    }
    start = assumed.start + job.started
    parts = {"start-up": start, **own, **others}
    busy = max(sum(own.values()), *others.values())
    # Where a process is what takes longest, its greatest share is to blame.
    blamed = max(own if busy == sum(own.values()) else others, key=lambda name: parts[name])
    return Cost(start + busy, "start-up" if start > busy else blamed, parts)


class Measured:
    """The rates of `results.json`."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.rows = known["rates"]["rows"]
        self.when = f"{known['rates']['date']}: {known['rates']['machine']}"
        self.disk = _disk(known["auditing"]["rows"])

    def row(self, what: str, part: str = "") -> Mapping[str, str]:
        return next(row for row in self.rows if row["what"].startswith(what) and row["what"].endswith(part))

    def spent(self, what: str) -> float:
        """Seconds of processors a file."""
        return _number(self.row(what)["found"])

    def size(self, what: str) -> float:
        """Bytes of each of its files."""
        return 1e6 * _number(self.row(what)["what"].rpartition(", ")[2])

    @property
    def model(self) -> str:
        """What one common checkpoint holds."""
        return self.row(rates.VERIFY)["what"].partition("× ")[2].rpartition(", ")[0]

    def jobs(self) -> list[Job]:
        """The four, each of one common model."""
        audit = self._started(rates.AUDIT_ONE, rates.AUDIT_MANY)
        verify = self._started(rates.VERIFY_ONE, rates.VERIFY_MANY)
        small, large = self.size(rates.VERIFY_MANY), self.size(rates.VERIFY_FAST)
        # Of a process that has started: what a large file takes beyond a small one is for its bytes.
        fast, many = self.spent(rates.VERIFY_FAST) - verify, self.spent(rates.VERIFY_MANY)
        hashing = large * (fast - many) / (large - small)
        work = {"hashing": hashing, "manifests, signatures and headers": fast - hashing}
        # The second file of a process, which has imported torch for the first.
        second = self.spent(rates.VERIFY_BOTH) * 2 - self.spent(rates.VERIFY)
        whole = {**work, "rebuilding and golden outputs": second - fast}
        torch = self.spent(rates.VERIFY) - second
        return [
            self._afar("audit --fast at addresses", rates.AUDIT_AFAR, "looking at samples", audit),
            self._afar("verify --fast at addresses", rates.VERIFY_AFAR, "fetching and hashing", verify),
            Job("verify --fast on local disks", work, verify, local=large),
            Job("verify on local disks", whole, torch, local=large),
        ]

    def _started(self, one: str, many: str) -> float:
        """Seconds until a process is ready: what a file takes alone beyond what each of many takes."""
        return self.spent(one) - self.spent(many)

    def _afar(self, name: str, what: str, work: str, started: float) -> Job:
        """What is done at an address."""
        read, requests, rounds = (
            _number(self.row(what, part)["found"]) for part in ("bytes", "requests", "answers waited for one by one")
        )
        own = {work: self.spent(what) - started}
        return Job(name, own, started, stored=1e6 * read, requests=requests, rounds=rounds)


def _disk(rows: Sequence[Mapping[str, str]]) -> float:
    """Bytes a second, as a file was read once from the disk."""
    row = next(row for row in rows if row["what"].endswith("both from the disk"))
    gigabytes = row["what"].partition(" GB")[0].rpartition(" ")[2]
    return 1e9 * float(gigabytes) / _number(row["theirs"])


def _number(text: str) -> float:
    return float(text.split()[0].replace(",", ""))


def page(known: Mapping[str, Any], assumed: Assumed = ASSUMED) -> str:
    """The page, as Markdown."""
    measured = Measured(known)
    jobs = measured.jobs()
    tables = "".join(f"\n## {job.name}\n\n{_table(job, measured, assumed)}" for job in jobs)
    return (
        f"# What a fleet takes\n\n"
        f"Written by `python benchmarks/estimate.py`: an estimate, reckoned for {FILES:,} checkpoints of "
        f"{measured.size(rates.VERIFY_FAST) / 1e9:.2f} GB\n({measured.model}, with golden outputs). No fleet of this "
        "size was run.\n\n"
        f"Measured on one worker, {measured.when}:\n\n{_measured(measured, jobs)}\n"
        f"Assumed:\n\n{_assumed(assumed)}\n"
        "A process works on one file at a time, and disks and networks read ahead of it. The time is that of the start "
        "and of\nwhatever is slowest then; the bottleneck is the greatest part of it.\n"
        f"{tables}"
    )


def _measured(measured: Measured, jobs: Sequence[Job]) -> str:
    lines = [f"the disk gives {measured.disk / 1e9:.2f} GB/s"]
    for job in jobs:
        spent = ", ".join(f"{seconds:.3f} for {name}" for name, seconds in job.work.items())
        line = f"{job.name}: a process is ready after {job.started:.2f} CPU-s, then takes CPU-s a file: {spent}"
        if job.requests:
            line += (
                f"; {job.requests:,.0f} requests for {job.stored / 1e6:,.1f} MB, of which it waits for "
                f"{job.rounds:,.1f} one by one"
            )
        lines.append(line)
    return _list(lines)


def _assumed(assumed: Assumed) -> str:
    lines = [
        f"a worker has {assumed.processors} processors as measured, one process each, and "
        f"{8 * assumed.network / 1e9:g} Gbit/s; its disk has its share of the files where they are local",
        f"the store gives {assumed.store / 1e9:g} GB/s and answers {assumed.requests:,.0f} requests a second to all "
        f"together, {1000 * assumed.round_trip:g} ms away",
        f"an engine has its workers after {assumed.start:g} s, whatever their number",
        f"an hour of a worker costs {assumed.price:.2f} dollars; requests and traffic cost nothing",
        "no file is broken, asked for twice, or known already; what is known already takes nothing",
    ]
    return _list(lines)


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {line};\n" for line in lines[:-1]) + f"- {lines[-1]}.\n"


def _table(job: Job, measured: Measured, assumed: Assumed) -> str:
    heads = ["workers", "time", "worker-hours", "dollars", "bottleneck", "then"]
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads)]
    for workers in FLEETS:
        found = cost(job, workers, measured.disk, assumed)
        hours = workers * found.seconds / 3600
        others = sorted((name for name in found.parts if name != found.bottleneck), key=lambda n: -found.parts[n])
        then = f"{others[0]}, {_time(found.parts[others[0]])}"
        bottleneck = f"{found.bottleneck}, {_time(found.parts[found.bottleneck])}"
        lines.append(
            [f"{workers:,}", _time(found.seconds), f"{hours:,.1f}", f"{hours * assumed.price:,.2f}", bottleneck, then]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _time(seconds: float) -> str:
    """In a unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def write() -> None:
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    write()
