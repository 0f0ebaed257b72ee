"""The core's tests know Nexus, whether or not this build serves it."""

from __future__ import annotations

import pytest

from cluster.core.machines import commands


@pytest.fixture(autouse=True)
def nexus_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "NEXUS_IS_SERVED", True)
