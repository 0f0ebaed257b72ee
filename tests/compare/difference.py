"""What differs between two normalised outcomes, place by place, so that single places can be accepted by name."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

MISSING = "<missing>"


@dataclass(frozen=True)
class Difference:
    """One place (`histories/0/events/4/attributes/cause`) and the two values there; a lacking one is MISSING."""

    place: str
    wanted: Any
    found: Any


@dataclass(frozen=True)
class Accepted:
    """A difference that is meant to be: scenario and place are shell patterns, the reason is for the reader."""

    scenario: str
    place: str
    reason: str


def differences(wanted: Any, found: Any, place: str = "") -> Iterator[Difference]:
    """Places in which `found` is not what was `wanted`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        # The text of an error is for people: status and details are what SDKs branch on.
        ignored = {"message"} if "error" in wanted and "error" in found else set()
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if key not in ignored:
                yield from differences(wanted.get(key, MISSING), found.get(key, MISSING), f"{place}/{key}".lstrip("/"))
    elif isinstance(wanted, list) and isinstance(found, list):
        for index in range(max(len(wanted), len(found))):
            one = wanted[index] if index < len(wanted) else MISSING
            other = found[index] if index < len(found) else MISSING
            yield from differences(one, other, f"{place}/{index}".lstrip("/"))
    elif wanted != found:
        yield Difference(place, wanted, found)


def unaccepted(scenario: str, wanted: Any, found: Any, accepted: Sequence[Accepted]) -> list[Difference]:
    """The differences that nobody has given a reason for."""
    rules = [rule for rule in accepted if fnmatch.fnmatchcase(scenario, rule.scenario)]
    return [
        difference
        for difference in differences(wanted, found)
        if not any(fnmatch.fnmatchcase(difference.place, rule.place) for rule in rules)
    ]


def event_lines(outcome: dict[str, Any]) -> list[str]:
    """One line per event and answer: what a reader wants to see side by side."""
    lines = []
    for history in outcome.get("histories", []):
        lines.append(f"== {history['workflow_id']}")
        for event in history["events"]:
            rest = {key: value for key, value in event.items() if key not in ("event_id", "event_type", "event_time", "task_id")}
            lines.append(
                f"{event['event_id']} {event['event_type'].removeprefix('EVENT_TYPE_')} {json.dumps(rest, ensure_ascii=False)}"
            )
    for name, value in outcome.get("observed", {}).items():
        lines.append(f"observed {name}: {json.dumps(value, ensure_ascii=False)}")
    return lines


def explain(wanted: dict[str, Any], found: dict[str, Any], found_places: Sequence[Difference], names: tuple[str, str]) -> str:
    """A unified diff of the events, and the exact places."""
    diff = unified_diff(event_lines(wanted), event_lines(found), *names, lineterm="", n=2)
    places = [f"  {one.place}: {short(one.wanted)} != {short(one.found)}" for one in found_places[:40]]
    return "\n".join([*diff, f"{len(found_places)} places ({names[0]} != {names[1]}):", *places])


def short(value: Any) -> str:
    text = value if value == MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."
