"""The core is pure: no I/O, no clock, no randomness, nothing of ours but itself and its limits. Read from the source."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "cluster" / "core"
FILES = sorted(CORE.rglob("*.py"))

# What the core may import at all: everything else, of the standard library too, is refused.
ALLOWED = frozenset(
    (
        "__future__", "abc", "collections", "copy", "dataclasses", "datetime", "enum", "functools", "hashlib", "itertools",
        "json", "math", "re", "typing", "zoneinfo",  # the standard library: no clock, no files, no loops
        "google.protobuf", "msgspec", "temporalio.api",  # messages and encoding
        "cluster.config", "cluster.core",
    )
)  # fmt: skip
# Of what is allowed, what is not: these read the clock or draw from it.
FORBIDDEN_NAMES = frozenset(("now", "utcnow", "today", "GetCurrentTime", "FromDatetime"))
FORBIDDEN_CALLS = frozenset(("open", "input", "print", "exec", "eval", "compile", "__import__", "id", "hash", "breakpoint"))


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide what is imported"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_allowed(name: str) -> bool:
    return any(name == one or name.startswith(one + ".") for one in ALLOWED)


def faults(source: str) -> set[str]:
    """What in the source is not pure."""
    tree = ast.parse(source)
    found = {f"imports {name}" for name in imported(tree) if not is_allowed(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in FORBIDDEN_NAMES:
                found.add(f"calls .{called.attr}()")
            if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
                found.add(f"calls {called.id}()")
        elif isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
            found.add(type(node).__name__)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_is_pure(path: Path) -> None:
    assert faults(path.read_text()) == set()


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio", "import time", "from time import monotonic", "import random", "import os", "import socket",
        "import threading", "import uuid", "import logging", "import structlog", "from cluster import seams",
        "from cluster.history import shard", "from pathlib import Path", "import sqlite3", "import grpc",
        "from datetime import datetime\ndatetime.now()", "def f():\n    open('x')", "async def f(): ...", "x = id(x)",
        "from google.protobuf.timestamp_pb2 import Timestamp\nTimestamp().GetCurrentTime()",
    ],
)  # fmt: skip
def test_what_is_not_pure_is_noticed(source: str) -> None:
    assert faults(source)


def test_there_is_a_core_to_look_at() -> None:
    assert len(FILES) > 20 and sys.version_info >= (3, 11)
