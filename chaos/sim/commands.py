"""The simulator's command line: many seeds, one seed in full, every store fault, and the safeguards removed in turn."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from chaos.sim import peer_faults, store_faults
from chaos.sim.canonical import STORIES
from chaos.sim.one_fault import Report
from chaos.sim.region_story import PARTS
from chaos.sim.safeguards import SAFEGUARDS, find_hole, removed
from chaos.sim.seeds import Result, Wanted, run_seed
from chaos.sim.shrink import shrink
from chaos.sim.tally import Tally

TARGETS = {"store-faults": "a store call", "peer-faults": "a call between nodes"}
SHOWN_VIOLATIONS_MAX = 5


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="seeds FIRST .. FIRST + SEEDS - 1; exit 1 if one of them shows a violation")
    run.add_argument("--seeds", type=int, default=500)
    run.add_argument("--first", type=int, default=1)
    run.add_argument("--nodes", type=int, help="so many nodes in every seed, instead of what it draws")
    _add_regions(run)
    run.add_argument("--jobs", type=int, default=1, help="processes that share the seeds")
    run.add_argument("--without", choices=sorted(SAFEGUARDS), help="remove this safeguard first")
    run.add_argument("--hashes", action="store_true", help="print every seed's trace hash")
    one = verbs.add_parser("one", help="one seed, told in full")
    one.add_argument("--seed", type=int, required=True)
    one.add_argument("--without", choices=sorted(SAFEGUARDS))
    one.add_argument("--nodes", type=int, help="so many nodes, instead of what the seed draws")
    _add_regions(one)
    small = verbs.add_parser("shrink", help="a failing seed, with as little as it needs to fail")
    small.add_argument("--seed", type=int, required=True)
    small.add_argument("--nodes", type=int)
    _add_regions(small)
    for what, target in TARGETS.items():
        faults = verbs.add_parser(what, help=f"every fault of {target} at every call index of the canonical workflows")
        faults.add_argument("--only", choices=sorted(STORIES), action="append", help="this workflow alone (repeatable)")
        faults.add_argument("--every", type=int, default=1, help="take one call index in so many")
    guards = verbs.add_parser("safeguards", help="remove each safeguard in turn: some seed must find it")
    guards.add_argument("--seeds", type=int, default=120)
    guards.add_argument("--only", choices=sorted(SAFEGUARDS), action="append")
    given = parser.parse_args(arguments)
    if given.verb in ("run", "one", "shrink"):
        wanted = Wanted(given.nodes, given.regions, frozenset(given.less or ()))
        if given.verb == "run":
            return _run(given.first, given.seeds, given.jobs, given.without, given.hashes, wanted)
        return _one(given.seed, given.without, wanted) if given.verb == "one" else _shrink(given.seed, wanted)
    if given.verb in TARGETS:
        run_all = store_faults.run_all if given.verb == "store-faults" else peer_faults.run_all
        return _faults(given.only or sorted(STORIES), given.every, run_all)
    return _safeguards(given.only or list(SAFEGUARDS), given.seeds)


def _add_regions(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--regions", type=int, default=1, help="so many regions; 0: several, as the seed draws")
    verb.add_argument("--less", action="append", choices=PARTS, help="leave this out of a story of regions (repeatable)")


# --- run ----------------------------------------------------------------------------------------------------------------
def _seed_without(asked: tuple[int, str | None, Wanted]) -> Result:
    seed, safeguard, wanted = asked
    with removed(safeguard):
        return run_seed(seed, wanted=wanted)


def _results(first: int, count: int, jobs: int, safeguard: str | None, wanted: Wanted) -> Iterable[Result]:
    asked = [(seed, safeguard, wanted) for seed in range(first, first + count)]
    if jobs <= 1:
        yield from map(_seed_without, asked)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_seed_without, asked)


def _run(first: int, count: int, jobs: int, safeguard: str | None, shows_hashes: bool, wanted: Wanted) -> int:
    began = time.monotonic()
    tally = Tally()
    for done, result in enumerate(_results(first, count, jobs, safeguard, wanted), 1):
        tally.add(result)
        if shows_hashes:
            print(f"{result.seed} {result.digest}")
        if result.violations:
            _show(result, wanted)
        if done % 20 == 0 and not shows_hashes:
            rate = done / (time.monotonic() - began)
            print(f"{done}/{count} seeds, {len(tally.failing)} failing, {rate:.1f} seeds/s", file=sys.stderr)
    for line in tally.lines():
        if not shows_hashes or not line.startswith("speed"):  # what must be equal in every run
            print(line)
    return 1 if tally.failing or tally.missing() else 0


def _show(result: Result, wanted: Wanted) -> None:
    command = f"python -m chaos.sim one --seed {result.seed}{wanted.options}"
    print(f"seed {result.seed}: {len(result.violations)} violations ({command})")
    for text in result.violations[:SHOWN_VIOLATIONS_MAX]:
        print(f"  {text}")


def _shrink(seed: int, wanted: Wanted) -> int:
    small = shrink(seed, wanted, lambda text: print(text, flush=True))
    if small is None:
        print(f"seed {seed} does not fail")
        return 0
    print(f"python -m chaos.sim one --seed {seed}{small.options}")
    return 1


def _one(seed: int, safeguard: str | None, wanted: Wanted) -> int:
    with removed(safeguard):
        result = run_seed(seed, keep_text=True, wanted=wanted)
    print(result.drew)
    print(result.trace)
    print(f"\nseed {seed}: hash {result.digest}, {result.virtual_s:.1f} virtual s, {result.runs_count} runs, acts {result.acts}")
    print("injected " + ", ".join(f"{kind} {number}" for kind, number in sorted(result.injected.items())))
    for text in result.violations:
        print(f"VIOLATION {text}")
    return 1 if result.violations else 0


# --- one fault, safeguards -----------------------------------------------------------------------------------------------
def _faults(names: Sequence[str], every: int, run_all: Callable[[str, int], Report]) -> int:
    failures = tries = 0
    for name in names:
        began = time.monotonic()
        report = run_all(name, every)
        tries += report.tries_count
        failures += len(report.failures)
        print(
            f"{name:22} {report.calls_count:4} calls, {report.tries_count:4} faults tried, "
            f"{len(report.failures)} failing, {time.monotonic() - began:.1f} s"
        )
        for failure in report.failures[:SHOWN_VIOLATIONS_MAX]:
            print(f"  {failure}")
    print(f"{tries} faults tried, {failures} failing")
    return 1 if failures else 0


def _safeguards(names: Sequence[str], seeds: int) -> int:
    holes: list[str] = []
    for name in names:
        began = time.monotonic()
        found = find_hole(name, range(1, seeds + 1))
        took_s = time.monotonic() - began
        if found is None:
            holes.append(name)
            print(f"{name:34} NOT FOUND by {seeds} seeds ({took_s:.0f} s)", flush=True)
        else:
            print(f"{name:34} found by {found.where} ({took_s:.0f} s): {found.text[:150]}", flush=True)
    print(f"{len(names) - len(holes)} of {len(names)} removed safeguards were found")
    return 1 if holes else 0
