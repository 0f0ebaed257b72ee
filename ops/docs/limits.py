"""`python -m ops.docs` writes it; this renders the limits of `cluster/config.py` and `cluster/matching/limits.py` into limits.md.

Name and value come from the structs themselves, the reason from the comment behind the field, and who asks for a limit from a
search for its name: one that nobody asks for is told as such. `tests/test_docs.py` holds that the file is current.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cluster.config import DAY_NS, KIB, MIB, SECOND_NS, Limits, ShardConfig
from cluster.matching.limits import MatchingLimits

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = Path(__file__).with_name("limits.md")
STRUCTS: tuple[tuple[type[msgspec.Struct], str], ...] = (
    (Limits, "cluster/config.py"),
    (ShardConfig, "cluster/config.py"),
    (MatchingLimits, "cluster/matching/limits.py"),
)
HEAD = """# Limits

Made by `.venv/bin/python -m ops.docs` from [cluster/config.py](../../cluster/config.py) and
[cluster/matching/limits.py](../../cluster/matching/limits.py): change those, then run it. Names such as `limit.blobSize.error`
are Temporal's dynamic configuration, whose default was the precedent.

"Asked by" names the parts of `cluster/` that read the limit. **Nobody** means that it is declared and not enforced.
"""
ELSEWHERE = """## Limits that live elsewhere

Bounds that belong to one mechanism stand as constants at the top of its file, where their reason is:

| constant | value | file |
|---|---|---|
"""
TAIL = """
gRPC itself bounds the metadata of a call (8 KiB soft, 16 KiB hard) and the server's keepalive; see
[cluster/frontend/transport_grpc.py](../../cluster/frontend/transport_grpc.py).
"""
# Constants that bound something: their names say so. What is a format, a unit or a margin is not a limit.
BOUND = re.compile(
    r"^_?[A-Z][A-Z0-9_]*_MAX(_S|_NS)?$"
    r"|^(DRAIN_S|SLICE_RUNS|BATCH_ROWS|DUE_PAGE|LOADS_AT_ONCE|_READ_LIMIT_S|STOP_GRACE_S|HEADER_TIMEOUT_S)$"
)
NOT_A_LIMIT = {"_GO_DURATION_NS_MAX", "NANOS_MAX", "SHARD_MAX", "_DIGITS_MAX", "BACKOFF_MAX_NS"}


class Limit(NamedTuple):
    name: str
    value: str
    reason: str
    asked_by: list[str]


def limits_of(struct: type[msgspec.Struct], path: str) -> list[Limit]:
    """In the order of the struct."""
    reasons = _reasons(ROOT / path, struct.__name__)
    defaults = struct()
    return [
        Limit(name, shown(name, getattr(defaults, name)), reasons.get(name, ""), asked_by(name))
        for name in struct.__struct_fields__
    ]


def shown(name: str, value: Any) -> str:
    """The value with its unit, which is the end of the name."""
    if name.endswith("_ns"):
        for unit_ns, unit in ((DAY_NS, "d"), (3_600 * SECOND_NS, "h"), (SECOND_NS, "s"), (1_000_000, "ms")):
            if value % unit_ns == 0:
                return f"{value // unit_ns} {unit}"
        return f"{value} ns"
    if "_bytes_" in name:
        for unit_bytes, unit in ((MIB, "MiB"), (KIB, "KiB")):
            if value % unit_bytes == 0:
                return f"{value // unit_bytes} {unit}"
        return f"{value:,} bytes"
    if name.endswith("_s"):
        return f"{value:g} s"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _reasons(path: Path, struct: str) -> dict[str, str]:
    """The comment behind each field."""
    text = path.read_text()
    lines = text.splitlines()
    node = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == struct)
    found = {}
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            _, _, comment = lines[field.lineno - 1].partition("#")
            found[field.target.id] = comment.strip()
    return found


def sources() -> list[Path]:
    return sorted((ROOT / "cluster").rglob("*.py"))


def asked_by(name: str) -> list[str]:
    """Folders of the server whose code reads this limit (a file at the top counts as itself)."""
    asks = re.compile(rf"\.{name}\b")
    parts = (path.relative_to(ROOT / "cluster") for path in sources() if asks.search(path.read_text()))
    return sorted({str(part.parent) if len(part.parts) > 1 else part.name for part in parts})


def constants() -> Iterator[tuple[str, str, str]]:
    """(name, value as it is written, file) of bounds outside the structs."""
    for path in sources():
        for node in ast.parse(path.read_text()).body:
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = list(node.targets)
            elif isinstance(node, ast.AnnAssign):
                targets = [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and BOUND.match(target.id) and target.id not in NOT_A_LIMIT:
                    assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
                    yield target.id, ast.unparse(node.value), str(path.relative_to(ROOT))


def _link(path: str) -> str:
    return f"[{path.removeprefix('cluster/')}](../../{path})"


def _section(struct: type[msgspec.Struct], path: str) -> str:
    first_line = (struct.__doc__ or "").strip().splitlines()[0]
    lines = [f"## {struct.__name__}", "", f"{first_line} ({_link(path)})", ""]
    lines += ["| limit | default | reason | asked by |", "|---|---|---|---|"]
    for limit in limits_of(struct, path):
        asked = ", ".join(limit.asked_by) or "**nobody**"
        lines.append(f"| `{limit.name}` | {limit.value} | {limit.reason} | {asked} |")
    return "\n".join(lines) + "\n"


def render() -> str:
    """The whole file."""
    rows = "".join(f"| `{name}` | `{value}` | {_link(path)} |\n" for name, value, path in constants())
    return "\n".join([HEAD, *(_section(struct, path) for struct, path in STRUCTS), ELSEWHERE + rows + TAIL])
