"""`python -m ops.docs`: writes every generated document anew."""

from __future__ import annotations

from ops.cli.server import json_schema
from ops.docs import limits, machines

REGION_SCHEMA = limits.FILE.with_name("region.schema.json")


def main() -> None:
    for generator in (machines, limits):
        generator.FILE.write_text(generator.render())
        print(f"{generator.FILE} written")
    REGION_SCHEMA.write_text(json_schema())
    print(f"{REGION_SCHEMA} written")


if __name__ == "__main__":
    main()
