"""What the documents say is true: words of make, links, commands and their options, generated files, what is built and what not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.frontend.not_built import NOT_BUILT
from ops.docs import limits, machines

ROOT = Path(__file__).resolve().parent.parent
SKIPPED = {".venv", "build", ".git", "node_modules"}
FIRST_SCREEN_LINES = 40
ARCHITECTURE_LINES_MAX = 250
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


def test_every_word_of_make_starts_a_program_that_is_there() -> None:
    programs = sorted(set(re.findall(r"\$\(PY\) -m ([a-z.]+)", (ROOT / "Makefile").read_text())))
    assert programs
    broken = {}
    for program in programs:
        asked = subprocess.run([sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
        if asked.returncode != 0:
            broken[program] = asked.stderr.splitlines()[-1:]
    assert not broken


@pytest.mark.parametrize("generator", [machines, limits], ids=["machines", "limits"])
def test_a_generated_document_is_current(generator: Any) -> None:
    assert generator.FILE.read_text() == generator.render(), f"run: python -m {generator.__name__}"


def test_a_limit_without_an_asker_is_told_as_not_enforced() -> None:
    """The generator sees both kinds; which limits are which is for the reader of limits.md."""
    assert limits.asked_by("id_bytes_max") and not limits.asked_by("no_such_limit")
    assert limits.shown("retention_max_ns", 90 * limits.DAY_NS) == "90 d"
    assert limits.shown("link_bytes_max", 4_000) == "4,000 bytes" and limits.shown("x_bytes_max", 2 * limits.MIB) == "2 MiB"


def test_a_stranger_finds_every_file_of_the_server() -> None:
    """Each module is named in ARCHITECTURE.md or in the README of a folder above it."""
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    unnamed = []
    for path in sorted((ROOT / "cluster").rglob("*.py")):
        above = [folder / "README.md" for folder in path.parents if folder.is_relative_to(ROOT / "cluster")]
        texts = [readme.read_text() for readme in above if readme.exists()]
        is_one_of_many = path.parent.name in ("api", "handlers")  # one file per call: the folder is named
        named = f"({path.relative_to(ROOT)})" in architecture or any(f"{path.name}" in text for text in texts)
        if path.name != "__init__.py" and not is_one_of_many and not named:
            unnamed.append(str(path.relative_to(ROOT)))
    assert not unnamed
    assert len(architecture.splitlines()) <= ARCHITECTURE_LINES_MAX


def test_every_machine_is_in_the_architecture() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## The machines")[2].partition("\n## ")[0]
    assert {table.name for table in machines.tables() if table.name not in section} == set()


def test_a_decision_record_has_its_four_parts_and_its_line_in_the_index() -> None:
    folder = ROOT / "ops" / "docs" / "adr"
    records = sorted(folder.glob("[0-9]*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    index = (folder / "README.md").read_text()
    for record in records:
        text = record.read_text()
        assert f"({record.name})" in index, record.name
        assert text.startswith(f"# {record.name[:4]}: "), record.name
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"], record.name


def test_what_is_not_built_is_said_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text().lower()
    subjects = {re.sub(r"^.*: | (is|are) not built$", "", reason).lower() for reason in NOT_BUILT.values() if "not built" in reason}
    assert len(subjects) > 5
    assert {subject for subject in subjects if subject not in readme} == set()
