"""Comparison with the real Temporal server: `python -m tests.compare --help`. Goldens hold what it did, see golden.py."""
