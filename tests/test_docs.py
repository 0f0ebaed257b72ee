"""What the documents say is true: words of make, links, commands and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".venv", "build", ".git", "node_modules"}
FIRST_SCREEN_LINES = 40
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def make_words() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


def documents() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED & set(path.relative_to(ROOT).parts)]


def shell_lines(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|shell|bash)\n(.*?)```", text, re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.split("#")[0].strip()]


def anchors(text: str) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_word_of_make_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert make_words(), "the Makefile's words were not found"
    assert {word for word in make_words() if f"make {word}" not in readme} == set()


def test_every_word_of_make_in_a_document_exists() -> None:
    used = set()
    for path in documents():
        text = path.read_text()
        inline = re.findall(r"`make ([a-z-]+)", text)
        in_blocks = [word for line in shell_lines(text) for word in re.findall(r"^make ([a-z-]+)", line)]
        used |= {(str(path.relative_to(ROOT)), word) for word in [*inline, *in_blocks]}
    assert used
    assert {(path, word) for path, word in used if word not in make_words()} == set()


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target in LINK.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)):
        if re.match(r"[a-z]+:", target):
            continue  # another site; not for a test without a network
        path, _, anchor = target.partition("#")
        place = document.parent / path if path else document
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place.read_text())):
            broken.append(target)
    assert not broken


def test_the_first_screen_says_what_it_is_and_how_to_see_it() -> None:
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:FIRST_SCREEN_LINES])
    commands = shell_lines(first)
    assert "make demo" in commands and "make test" in commands
    assert [line for line in commands if not re.match(r"make [a-z-]+", line)] == []


def test_every_option_of_outlast_in_the_documents_exists() -> None:
    """Options are taken from the program's own help, not from its source."""
    used = [line for path in documents() for line in shell_lines(path.read_text()) if re.match(r"(\.venv/bin/)?outlast ", line)]
    assert used, "the README shows how to start the server"
    for line in used:
        verb = line.split()[1]
        outlast = Path(sys.executable).with_name("outlast")
        wide = {"COLUMNS": "200", "TERM": "dumb", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
        told = subprocess.run([outlast, verb, "--help"], capture_output=True, text=True, check=True, env=wide).stdout
        assert set(re.findall(r"--[a-z-]+", line)) - set(re.findall(r"--[a-z-]+", told)) == set(), line
