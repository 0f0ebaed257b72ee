"""Style that a machine can check (style.md): short files and functions, honest names, no swallowed errors, no sleeping tests.

An exception from a rule is listed here with its reason, or it is a failure.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cluster", "replication", "nexus", "sdk", "ops", "chaos", "tests")
FILE_LINES_MAX, FUNCTION_LINES_MAX = 400, 70

# path: why it may be longer
LONG_FILES: dict[str, str] = {}
# path:function: why it may be longer
LONG_FUNCTIONS: dict[str, str] = {}
# path: why it may drop an exception of any kind
SWALLOWS: dict[str, str] = {"chaos/sim/loop.py": "jobs are closed after the end of the simulated world, and nobody listens"}
# path: why its test may pause without looking for something
PAUSES: dict[str, str] = {"tests/stores/test_sqlite_crash.py": "a kill shall not come right after the child's last line"}

VAGUE = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}
UNFINISHED = re.compile(r"#.*\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b(?!\(#\d+\))")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """(path as in the repository, text) of each source file."""
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()


def words(name: str) -> set[str]:
    """The lower-case words of a snake_case or CamelCase name."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}


def swallowed(source: str) -> Iterator[tuple[int, str]]:
    """Handlers that catch everything unnamed, or catch Exception and do nothing with it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield node.lineno, "bare except"
            elif _broad(node.type) and all(_does_nothing(each) for each in node.body):
                yield node.lineno, "an exception of any kind is swallowed"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(map(_broad, node.args)):
            yield node.lineno, "an exception of any kind is suppressed"


def _broad(expression: ast.expr) -> bool:
    names = expression.elts if isinstance(expression, ast.Tuple) else [expression]
    return any(ast.unparse(name) in ("Exception", "BaseException") for name in names)


def _does_nothing(statement: ast.stmt) -> bool:
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return constant or isinstance(statement, ast.Pass | ast.Continue)


def sleeps_instead_of_waiting(source: str) -> Iterator[int]:
    """Lines with a time.sleep that is not the pause of a loop which looks for something."""
    tree = ast.parse(source)
    polling = {id(inner) for loop in ast.walk(tree) if isinstance(loop, ast.While | ast.For) for inner in ast.walk(loop)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "time.sleep" and id(node) not in polling:
            yield node.lineno


def test_a_file_is_short_enough_to_read() -> None:
    long = {path: len(text.splitlines()) for path, text in sources() if len(text.splitlines()) > FILE_LINES_MAX}
    assert {path: count for path, count in long.items() if path not in LONG_FILES} == {}
    assert set(LONG_FILES) <= set(long), "these are short now: take them off the list"


def test_a_function_is_short_enough_to_read() -> None:
    long = {}
    for path, text in sources():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > FUNCTION_LINES_MAX:
                    long[f"{path}:{node.name}"] = count
    assert {place: count for place, count in long.items() if place not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(long), "these are short now: take them off the list"


def test_a_name_says_what_the_thing_is() -> None:
    vague = [path for path, _ in sources() if words(Path(path).stem) & VAGUE]
    for path, text in sources():
        vague += [f"{path}:{n.name}" for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and words(n.name) & VAGUE]
    assert not vague


def test_a_module_says_why_it_is_there() -> None:
    silent = [path for path, text in sources() if text.strip() and not ast.get_docstring(ast.parse(text))]
    assert not silent


def test_no_exception_is_swallowed() -> None:
    found = {path: [f"line {line}: {what}" for line, what in swallowed(text)] for path, text in sources() if any(swallowed(text))}
    assert {path: places for path, places in found.items() if path not in SWALLOWS} == {}
    assert set(SWALLOWS) <= set(found), "these swallow nothing now: take them off the list"


def test_no_test_sleeps_instead_of_waiting_for_something() -> None:
    found = {path: lines for path, text in sources("tests") if (lines := list(sleeps_instead_of_waiting(text)))}
    assert {path: lines for path, lines in found.items() if path not in PAUSES} == {}
    assert set(PAUSES) <= set(found), "these do not pause now: take them off the list"


def test_unfinished_work_names_its_issue() -> None:
    lines = [(path, number, line) for path, text in sources() for number, line in enumerate(text.splitlines(), 1)]
    assert not [f"{path}:{number}" for path, number, line in lines if UNFINISHED.search(line)], "write the mark as TO" + "DO(#12)"


def test_every_folder_has_a_readme_that_names_its_parts() -> None:
    for folder in FOLDERS:
        readme = ROOT / folder / "README.md"
        assert readme.exists(), f"{folder} has no README.md"
        parts = [part.name for part in (ROOT / folder).iterdir() if {path.name for path in part.rglob("*.py")} - {"__init__.py"}]
        unnamed = [part for part in parts if f"`{part}/`" not in readme.read_text()]
        assert not unnamed, f"{folder}/README.md does not name {unnamed}"


def test_the_checks_of_this_file_see_what_they_look_for() -> None:
    bad = "try:\n    x()\nexcept:\n    y()\ntry:\n    x()\nexcept (A, Exception):\n    pass\nwith suppress(Exception):\n    x()\n"
    assert sorted(line for line, _ in swallowed(bad)) == [3, 7, 9]
    assert not list(swallowed("try:\n    x()\nexcept Exception as e:\n    log(e)\ntry:\n    x()\nexcept KeyError:\n    pass\n"))
    assert list(sleeps_instead_of_waiting("time.sleep(1)\nwhile a():\n    time.sleep(1)\n")) == [1]
    assert words("TaskQueueManager") & VAGUE and not words("commons_licence") & VAGUE
    assert UNFINISHED.search("x = 1  # TO" + "DO later") and not UNFINISHED.search("# TO" + "DO(#12) later")
