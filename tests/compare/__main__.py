"""`python -m tests.compare`: every scenario on Outlast and on the real server, histories and answers compared.

--only PATTERN   scenarios whose name matches the shell pattern (repeatable)
--jobs N         scenarios at a time, per server
--record         no Outlast: run on the real server twice, and keep the outcomes as goldens where both runs agree
--golden         no real server: compare Outlast with the goldens
"""

from __future__ import annotations

import argparse
import asyncio
import fnmatch
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from ops.servers import OutlastServer, PeerServer, Server
from tests.compare import golden
from tests.compare.accepted import ACCEPTED
from tests.compare.difference import explain, unaccepted
from tests.compare.normal import as_text
from tests.e2e.registry import Scenario
from tests.e2e.running import Outcome, run_scenarios
from tests.e2e.scenarios import SCENARIOS

Outcomes = dict[str, Outcome]


def chosen(patterns: list[str]) -> list[Scenario]:
    found = [one for name, one in SCENARIOS.items() if not patterns or any(fnmatch.fnmatchcase(name, text) for text in patterns)]
    if not found:
        raise SystemExit(f"no scenario matches {patterns}")
    return found


def progress(server: str) -> Any:
    def done(outcome: Outcome) -> None:
        mark = "FAILED" if outcome.error else "ok"
        print(
            f"  {server:9} {outcome.name:55} {outcome.event_count():4} events {outcome.seconds:6.2f} s {mark}",
            file=sys.stderr,
            flush=True,
        )

    return done


async def run_on(server: Server, scenarios: list[Scenario], jobs: int) -> Outcomes:
    return await run_scenarios(server.address, scenarios, jobs, progress(server.name))


def data_of(outcome: Outcome) -> dict[str, Any]:
    """The outcome as it would be read back from its golden."""
    loaded: dict[str, Any] = json.loads(as_text(outcome.normal))
    return loaded


def report(scenarios: list[Scenario], wanted: dict[str, dict[str, Any]], outcomes: Outcomes, errors: dict[str, str]) -> int:
    """Prints the table and the differences; returns how many scenarios differ or failed."""
    bad, details, rows = 0, [], []
    for scenario in scenarios:
        outcome = outcomes[scenario.name]
        if scenario.name in errors or outcome.error:
            verdict = "failed"
            details.append(f"--- {scenario.name}: failed\n{errors.get(scenario.name) or outcome.error}")
        elif scenario.name not in wanted:
            verdict = "not recorded"
        else:
            places = unaccepted(scenario.name, wanted[scenario.name], data_of(outcome), ACCEPTED)
            verdict = "different" if places else "equal"
            if places:
                text = explain(wanted[scenario.name], data_of(outcome), places, ("Temporal", "Outlast"))
                details.append(f"--- {scenario.name}: different\n{text}")
        bad += verdict != "equal"
        rows.append(f"{scenario.name:60} {outcome.event_count():6} {verdict}")
    print("\n\n".join(details))
    print(f"\n{'scenario':60} {'events':>6} verdict", *rows, sep="\n")
    print(f"\n{len(scenarios)} scenarios, {len(scenarios) - bad} equal, {bad} different or failed")
    return bad


async def compare(scenarios: list[Scenario], jobs: int, directory: Path) -> int:
    """Both servers live, one after the other, so that neither is slowed by the other."""
    peer, outlast = Peer(), OutlastServer(directory / "outlast")
    theirs = await on(peer, scenarios, jobs)
    ours = await on(outlast, scenarios, jobs)
    errors = {name: f"on the real server:\n{one.error}" for name, one in theirs.items() if one.error}
    wanted = {name: data_of(one) for name, one in theirs.items() if not one.error}
    return report(scenarios, wanted, ours, errors)


# Not on by default in the real server, and not in peer.sh.
PEER_SETTINGS = """
frontend.WorkflowPauseEnabled: [{value: true}]
frontend.namespaceRPS.visibility: [{value: 100000}]
"""


class Peer(PeerServer):
    """The real server with the settings that the corpus needs: they are read when it starts."""

    def start(self) -> None:
        super().start()
        self.stop()
        with (self.directory / "run" / "dynamic.yaml").open("a") as settings:
            settings.write(PEER_SETTINGS)
        self.restart()


async def on(server: Server, scenarios: list[Scenario], jobs: int) -> Outcomes:
    await asyncio.to_thread(server.start)
    try:
        return await run_on(server, scenarios, jobs)
    finally:
        await asyncio.to_thread(server.stop)


async def with_goldens(scenarios: list[Scenario], jobs: int, directory: Path) -> int:
    outcomes = await on(OutlastServer(directory / "outlast"), scenarios, jobs)
    recorded = {one.name: data for one in scenarios if (data := golden.load(one.name)) is not None}
    return report(scenarios, recorded, outcomes, {})


async def record(scenarios: list[Scenario], jobs: int) -> int:
    """A golden is worth something only if the real server does the same thing twice."""
    peer, bad = Peer(), 0
    await asyncio.to_thread(peer.start)
    try:
        first = await run_on(peer, scenarios, jobs)
        second = await run_on(peer, scenarios, jobs)
    finally:
        await asyncio.to_thread(peer.stop)
    for scenario in scenarios:
        one, two = first[scenario.name], second[scenario.name]
        error = one.error or two.error
        if error:
            print(f"--- {scenario.name}: failed\n{error}")
        elif places := unaccepted(scenario.name, data_of(one), data_of(two), ()):
            print(f"--- {scenario.name}: two runs differ\n{explain(data_of(one), data_of(two), places, ('first', 'second'))}")
        else:
            golden.save(scenario.name, one.normal)
            continue
        bad += 1
    print(f"{len(scenarios) - bad} of {len(scenarios)} scenarios recorded in {golden.DIRECTORY}")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--jobs", type=int, default=6)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--record", action="store_true")
    mode.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    scenarios = chosen(options.only)
    if not options.golden and not PeerServer.available():
        print("the real server is not built: ../shared/peer/peer.sh install (or use --golden)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="outlast-compare-") as directory:
        if options.record:
            bad = asyncio.run(record(scenarios, options.jobs))
        elif options.golden:
            bad = asyncio.run(with_goldens(scenarios, options.jobs, Path(directory)))
        else:
            bad = asyncio.run(compare(scenarios, options.jobs, Path(directory)))
    return 1 if bad else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The SDK's threads may still hold the interpreter lock at exit and would abort the process: leave without them.
    os._exit(code)
