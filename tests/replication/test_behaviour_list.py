"""The list of behaviours is true: each test it names is there, and each line is shown by one or says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LIST = ROOT / "ops" / "docs" / "replication_behaviours.md"
ROW = re.compile(r"^\| ([AB]) \| (.+?) \| (.+) \|$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
BEHAVIOURS_MIN = 70


def rows() -> list[tuple[str, str, str]]:
    return [(priority, behaviour, shown) for priority, behaviour, shown in ROW.findall(LIST.read_text())]


def test_the_list_has_every_behaviour_once() -> None:
    names = [behaviour for _, behaviour, _ in rows()]
    assert len(names) == len(set(names)) >= BEHAVIOURS_MIN
    assert LIST.read_text().count("\n| ") == len(names) + 1, "a line that is not understood"


@pytest.mark.parametrize(("behaviour", "shown"), [pytest.param(one, shown, id=one) for _, one, shown in rows()])
def test_a_behaviour_is_shown_by_tests_that_are_there_or_says_why_not(behaviour: str, shown: str) -> None:
    named = TEST.findall(shown)
    for file, name in named:
        path = ROOT / file
        assert path.is_file(), f"{behaviour}: there is no {file}"
        assert re.search(rf"^(async )?def {name}\(", path.read_text(), re.MULTILINE), f"{behaviour}: {file} has no {name}"
    reasons = re.findall(r"Not (?:built|shown): .{10,}", shown)
    assert named or reasons, f"{behaviour}: neither a test nor a reason"
    assert shown.count("::") == len(named), f"{behaviour}: a test is named in a form that is not understood"
