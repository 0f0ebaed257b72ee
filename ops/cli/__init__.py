"""The command `outlast`."""

from ops.cli.main import main

__all__ = ["main"]
