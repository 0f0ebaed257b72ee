"""`python -m chaos.sim run --seeds 500 --first 1` and friends: see `--help`."""

from __future__ import annotations

import sys

from chaos.sim.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
