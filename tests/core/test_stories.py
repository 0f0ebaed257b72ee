"""The stories in stories/*.txt are what happens. They are documentation, and fail when it is no longer true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.storyteller import COMMANDS, play

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_is_true(path: Path) -> None:
    told = path.read_text()
    found = play(told)
    if os.environ.get("REGENERATE"):
        path.write_text(found)
    assert found == told or os.environ.get("REGENERATE")


def test_there_are_stories_and_they_use_every_word() -> None:
    words = {line.split()[1] for path in STORIES for line in path.read_text().splitlines() if line.startswith("> ")}
    assert len(STORIES) >= 12 and set(COMMANDS) == words


def test_a_story_that_is_not_true_is_noticed() -> None:
    assert play("> start\n1 SomethingElse\n") != "> start\n1 SomethingElse\n"
