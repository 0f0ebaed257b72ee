"""`python -m ops.docs`: writes every generated document anew."""

from __future__ import annotations

from ops.docs import limits, machines


def main() -> None:
    for generator in (machines, limits):
        generator.FILE.write_text(generator.render())
        print(f"{generator.FILE} written")


if __name__ == "__main__":
    main()
