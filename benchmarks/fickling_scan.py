"""What fickling says of files, with fickling's own interpreter: `python fickling_scan.py default|ml PATH`.

Its command line reads single pickles. Its library scans archives too, and its scan of a hub's repository takes one or
the other by what a file is; so does this. Of its two lists, the default takes what is not Python's own for unsafe, and
`ml` knows torch. Prints `alarm`, `clean`, or `refused` where it could read none of it.
"""

from __future__ import annotations

import functools
import sys
import zipfile
from pathlib import Path

from fickling import loader
from fickling.analysis import Analyzer, check_safety
from fickling.loader import ScanResult, scan_file, scan_zip_archive
from fickling.ml import MLAllowlist


def scanned(path: Path) -> list[ScanResult]:
    """What it finds in each pickle of a file."""
    if zipfile.is_zipfile(path):
        return list(scan_zip_archive(str(path), graceful=True).values())
    return [scan_file(str(path), graceful=True)]


def verdict(results: list[ScanResult]) -> str:
    """In a word; what it makes of a pickle that it could not parse is no finding."""
    if any(not result.is_safe for result in results if not result.errors):
        return "alarm"
    if any(result.errors for result in results) or not results:
        return "refused"
    return "clean"


def main(listed: str, path: Path) -> None:
    if listed == "ml":  # its scans take no analyzer, and look this one up
        loader.check_safety = functools.partial(check_safety, analyzer=Analyzer([MLAllowlist()]))
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    print(verdict([result for file in files for result in scanned(file)]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
