"""What the real server did, recorded once per scenario, so that the comparison needs no real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.compare.accepted import ACCEPTED
from tests.compare.difference import explain, unaccepted
from tests.compare.normal import as_text

DIRECTORY = Path(__file__).parent / "golden"


def path_of(scenario: str) -> Path:
    return DIRECTORY / f"{scenario}.json"


def load(scenario: str) -> dict[str, Any] | None:
    path = path_of(scenario)
    if not path.exists():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def save(scenario: str, outcome: dict[str, Any]) -> None:
    DIRECTORY.mkdir(exist_ok=True)
    path_of(scenario).write_text(as_text(outcome))


def disagreement(scenario: str, outcome: dict[str, Any]) -> str | None:
    """How the outcome differs from the recorded one, for a reader; None where it agrees."""
    recorded = load(scenario)
    if recorded is None:
        return f"nothing is recorded for {scenario}: python -m tests.compare --record --only {scenario}"
    found = json.loads(as_text(outcome))
    places = unaccepted(scenario, recorded, found, ACCEPTED)
    return explain(recorded, found, places, ("Temporal", "Outlast")) if places else None
