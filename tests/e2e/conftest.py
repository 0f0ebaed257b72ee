"""`--shape NAME`: what the suite runs on (shapes.py)."""

from __future__ import annotations

import pytest

from tests.e2e.shapes import SHAPES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shape", choices=sorted(SHAPES), help="what tests/e2e/test_scenarios.py runs on (default dev)")
