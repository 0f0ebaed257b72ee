"""`python -m tests.matrix [--shape NAME ...] [--out build/matrix]`: tests/e2e/test_scenarios.py on each of tests/e2e/shapes.py.

One shape after the other, each a pytest process of its own with its own servers; a table and matrix.json at the end. Exit code 0
if every scenario held on every shape, 1 if not. A shape that could not even start counts as failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.e2e.shapes import DEV, SHAPES

ROOT = Path(__file__).resolve().parent.parent.parent
SHOWN_FAILURES_MAX = 15


@dataclass
class ShapeResult:
    """passed, failed, skipped: tests (two per scenario, and a few about the whole)."""

    shape: str
    seconds: float = 0.0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    error: str = ""  # why there are no results

    @property
    def held(self) -> bool:
        return self.passed > 0 and not self.failed and not self.error


def read_results(result: ShapeResult, report: Path) -> None:
    """Counts from pytest's JUnit file."""
    for case in ET.parse(report).getroot().iter("testcase"):
        broken = case.find("error")
        if broken is not None and not result.error:
            result.error = broken.get("message", "")[-1_000:]
        if broken is not None or case.find("failure") is not None:
            result.failed += 1
            result.failures.append(case.get("name", "?"))
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1


def run_shape(shape: str, folder: Path, selection: str) -> ShapeResult:
    report, log = folder / f"{shape}.xml", folder / f"{shape}.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/e2e/test_scenarios.py", "--shape", shape, f"--junitxml={report}"]
    began = time.monotonic()
    command += [f"--basetemp={folder / shape}"]  # the nodes' logs stay there
    with log.open("w") as out:
        done = subprocess.run(
            [*command, *(["-k", selection] if selection else [])], stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, check=False
        )
    result = ShapeResult(shape, seconds=round(time.monotonic() - began, 1))
    if report.exists():
        read_results(result, report)
    if not result.passed and not result.failed:
        result.error = f"pytest ended with {done.returncode} and without results; see {log}"
    elif done.returncode not in (0, 1):
        result.error = f"pytest ended with {done.returncode}; see {log}"
    return result


def table(results: list[ShapeResult]) -> Table:
    shown = Table(title="end to end, by shape")
    for name in ("shape", "held", "passed", "failed", "skipped", "seconds"):
        shown.add_column(name, justify="left" if name in ("shape", "held") else "right")
    for one in results:
        figures = (one.passed, one.failed, one.skipped, one.seconds)
        shown.add_row(one.shape, "yes" if one.held else "NO", *(str(figure) for figure in figures))
    return shown


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    known = [name for name in SHAPES if name != DEV.name]
    parser.add_argument("--shape", action="append", choices=known, help="only this one; may be given several times")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "matrix", help="where logs and matrix.json go")
    parser.add_argument("-k", dest="selection", default="", help="only tests that pytest selects by this expression")
    options = parser.parse_args(arguments)
    console = Console(soft_wrap=True, highlight=False)
    options.out.mkdir(parents=True, exist_ok=True)
    results: list[ShapeResult] = []
    shapes = options.shape or known
    for number, shape in enumerate(shapes, 1):
        console.print(f"[{number}/{len(shapes)}] {shape} ...", markup=False)
        result = run_shape(shape, options.out, options.selection)
        results.append(result)
        console.print(f"      {result.passed} passed, {result.failed} failed, {result.skipped} skipped in {result.seconds} s")
        for failure in result.failures[:SHOWN_FAILURES_MAX]:
            console.print(f"      FAILED {failure}", markup=False)
        if result.error:
            console.print(f"      {result.error}", markup=False)
        (options.out / "matrix.json").write_text(json.dumps([asdict(one) | {"held": one.held} for one in results], indent=1))
    console.print(table(results))
    return 0 if all(result.held for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
