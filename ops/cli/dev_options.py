"""The options of `outlast dev` as they come from the command line, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import msgspec

from ops.cli.logs import LOG_LEVELS

ATTRIBUTE_TYPES = ("Text", "Keyword", "Int", "Double", "Bool", "Datetime", "KeywordList")
DEFAULT_NAMESPACE = "default"


class DevOptions(msgspec.Struct, frozen=True, kw_only=True):
    """As they come from the command line, unchecked. db: a file, or a directory with `regions` above 1 or `region`."""

    ip: str
    port: int
    http_port: int
    db: Path | None
    sync: str
    namespaces: tuple[str, ...]
    search_attributes: tuple[str, ...]
    shards: int | None
    log_level: str
    regions: int = 1
    stores: str = ""
    restart: bool = False
    region: str = ""

    @property
    def sync_kind(self) -> Literal["full", "normal"]:
        return cast(Literal["full", "normal"], self.sync)


class WrongOption(Exception):
    """Its text names the option and what it may be."""


def check(options: DevOptions) -> None:
    """Raises WrongOption."""
    if options.sync not in ("full", "normal"):
        raise WrongOption(f"--sync is full or normal, not {options.sync!r}")
    if options.log_level.lower() not in LOG_LEVELS:
        raise WrongOption(f"--log-level is one of {', '.join(LOG_LEVELS)}, not {options.log_level!r}")
    if options.regions < 2 and not options.region and (options.stores or options.restart):
        raise WrongOption("--stores and --restart are for --regions 2 or 3")
    if options.region and options.db is None:
        raise WrongOption("--region runs one region of a directory again: say which by --db")
    attributes_of(options)


def namespaces_of(options: DevOptions) -> tuple[str, ...]:
    return tuple(dict.fromkeys((DEFAULT_NAMESPACE, *options.namespaces)))


def attributes_of(options: DevOptions) -> dict[str, int]:
    """Raises WrongOption."""
    return dict(map(_attribute, options.search_attributes))


def _attribute(text: str) -> tuple[str, int]:
    name, _, kind = text.partition("=")
    numbers = {known.lower(): number for number, known in enumerate(ATTRIBUTE_TYPES, 1)}
    if not name or kind.lower() not in numbers:
        raise WrongOption(f"--search-attribute is NAME=TYPE with one of {', '.join(ATTRIBUTE_TYPES)}, not {text!r}")
    return name, numbers[kind.lower()]
