"""Who may import whom (architecture.md, section 8), read from the source by AST: nothing is imported or run here.

The rules are the tables at the top. A rule that gets in the way is discussed in a decision record, not worked around.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("cluster", "replication", "nexus", "sdk", "ops", "chaos", "tests")
SERVER = ("cluster", "replication", "nexus")


class Rule(NamedTuple):
    """Modules under `package` import nothing under `forbidden`, except what is under `allowed`."""

    package: str
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...]
    why: str


NONDETERMINISM = (
    "asyncio", "time", "random", "os", "socket", "threading", "uuid", "secrets", "subprocess", "concurrent", "multiprocessing",
    "sqlite3", "tempfile", "shutil", "grpc", "aiohttp", "uvloop", "structlog", "logging",
)  # fmt: skip
BELOW_THE_FRONTEND = ("stores", "visibility", "matching", "namespaces", "history", "membership", "wire", "routing")

RULES = (
    Rule("cluster.core", OURS, ("cluster.core", "cluster.config"), "the core is pure; limits come in as arguments"),
    Rule("cluster.core", NONDETERMINISM, (), "no I/O, no clock, no randomness, no asyncio: now, ids and jitter are arguments"),
    *(
        Rule(f"cluster.{part}", ("cluster.frontend",), ("cluster.frontend.call",), "of the front, lower layers know a call")
        for part in BELOW_THE_FRONTEND
    ),
    Rule("cluster.stores", ("cluster.history", "cluster.matching", "cluster.namespaces"), (), "stores know nothing above them"),
    Rule("cluster.membership", OURS, ("cluster.membership", "cluster.seams", "cluster.config"), "it knows no work"),
    Rule("cluster.wire", OURS, ("cluster.wire", "cluster.core.errors", "cluster.seams", "cluster.config"), "frames know no work"),
    *(
        Rule(f"cluster.{part}", ("cluster.routing",), (), "what does the work does not know where it runs")
        for part in ("stores", "visibility", "matching", "namespaces", "history", "core")
    ),
    Rule("cluster.nexus", ("cluster.frontend",), ("cluster.frontend.call",), "operations go through history and matching"),
    Rule("replication", ("cluster.frontend",), (), "replication goes through the shard, not through the front"),
    Rule("nexus", ("cluster.frontend",), (), "the gateway is a front of its own"),
    Rule("sdk", ("cluster", "replication", "nexus", "ops", "chaos"), (), "the client library needs no server package"),
    *(Rule(part, ("chaos", "tests", "ops"), (), "the product does not know its tests and tools") for part in (*SERVER, "sdk")),
    Rule("chaos", ("tests",), (), "tests use chaos, not the other way round"),
    Rule("ops", ("tests",), (), "tools do not need tests"),
)

# Where real clocks and real randomness may be made: the composition root, the simulator's world, the tools.
BUILDS_SEAMS = ("cluster/node.py", "cluster/seams.py", "chaos/sim/", "ops/")
SEAM_CLASSES = ("SystemClock", "SystemIds")

# Calls that read the wall clock or draw randomness. In the server they belong to cluster/seams.py, where a simulation sees them.
NONDETERMINISTIC_CALLS = (
    "time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "datetime.datetime.now", "date.today",
    "uuid.uuid1", "uuid.uuid4", "uuid4", "os.urandom", "random.random", "random.randint", "random.choice", "random.Random",
    "secrets.token_bytes", "secrets.token_hex",
)  # fmt: skip
MAY_CALL_THEM: dict[str, str] = {"cluster/seams.py": "it is the seam"}


def modules(package: str) -> Iterator[Path]:
    """All source files of a package, which may be a folder or one file."""
    path = ROOT / package.replace(".", "/")
    if path.is_dir():
        yield from sorted(path.rglob("*.py"))
    elif path.with_suffix(".py").exists():
        yield path.with_suffix(".py")


def imports(source: str, module: str) -> set[tuple[int, str]]:
    """(line, dotted name) of all that the source imports, at any depth; `from a import b` is a.b, relative ones resolved."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            found |= {(node.lineno, f"{base}.{alias.name}") for alias in node.names}
    return found


def under(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def dotted(node: ast.expr) -> str:
    """"time.time" for that expression; "" for what is not a plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def calls(source: str) -> set[tuple[int, str]]:
    found = {(node.lineno, dotted(node.func)) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return {(line, name) for line, name in found if name}


def breaches(rule: Rule) -> list[str]:
    found = []
    for path in modules(rule.package):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for line, name in sorted(imports(path.read_text(), module)):
            if under(name, rule.forbidden) and not under(name, rule.allowed):
                found.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.package}-without-{rule.forbidden[0]}")
def test_a_layer_imports_only_what_is_below_it(rule: Rule) -> None:
    assert not breaches(rule), f"{rule.why}:\n" + "\n".join(breaches(rule))


def test_only_the_composition_root_the_simulator_and_the_tools_build_real_clocks_and_ids() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} calls {name}"
        for package in (*SERVER, "sdk", "chaos")
        for path in modules(package)
        if not str(path.relative_to(ROOT)).startswith(BUILDS_SEAMS)
        for line, name in calls(path.read_text())
        if name.rsplit(".", 1)[-1] in SEAM_CLASSES
    ]
    assert not found, "\n".join(found)


def test_the_server_reads_time_and_draws_randomness_only_through_its_seams() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} calls {name}"
        for package in SERVER
        for path in modules(package)
        if str(path.relative_to(ROOT)) not in MAY_CALL_THEM
        for line, name in calls(path.read_text())
        if name in NONDETERMINISTIC_CALLS
    ]
    assert not found, "\n".join(found)


def test_the_core_opens_no_file() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} calls {name}"
        for path in modules("cluster.core")
        for line, name in calls(path.read_text())
        if name in ("open", "input", "print", "exec", "eval", "__import__", "importlib.import_module")
    ]
    assert not found, "\n".join(found)


def test_the_reader_sees_every_form_of_import() -> None:
    source = "import a.b as c\nfrom d import e\ndef f():\n    from ..g import h\n    from . import i\n    import j, k\n"
    assert {name for _, name in imports(source, "top.middle.leaf")} == {"a.b", "d.e", "top.g.h", "top.middle.i", "j", "k"}


def test_a_forbidden_name_is_told_from_one_that_only_begins_alike() -> None:
    assert under("os.path", ("os",))
    assert not under("ossify", ("os",))


def test_every_rule_of_a_built_package_reads_at_least_one_file() -> None:
    built = [rule.package for rule in RULES if (ROOT / rule.package.replace(".", "/")).is_dir()]
    assert {package for package in built if package.startswith("cluster")}
    assert not [package for package in built if package.startswith("cluster") and not list(modules(package))]
