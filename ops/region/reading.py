"""region.yaml and the environment -> settings. Whatever is wrong is told by its name, all of it at once, and never with its
value, which may be a secret.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from ops.region.settings import DatabaseSection, RegionSettings

PREFIX = "OUTLAST_"


class WrongSettings(Exception):
    """One line per thing that is wrong."""


class _Loader(yaml.SafeLoader):
    """YAML itself keeps the last of two equal keys, silently."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_settings(path: Path | None, over: Mapping[str, Any] | None = None) -> RegionSettings:
    """over: from the command line, above file and environment. Raises WrongSettings."""
    from_file = read_file(path) if path is not None else {}
    _refuse_unknown_variables(os.environ)
    try:
        settings = RegionSettings(**from_file)
        if over:
            settings = RegionSettings.model_validate(settings.model_dump(exclude_unset=True) | dict(over))
    except ValidationError as error:
        where = f"{path}: " if path is not None else ""
        raise WrongSettings("\n".join(f"{where}{line}" for line in _explained(error))) from None
    return _with_passwords(settings)


def read_file(path: Path) -> dict[str, Any]:
    """Raises WrongSettings."""
    try:
        found = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise WrongSettings(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise WrongSettings(f"{path} is not text") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise WrongSettings(f"{path}{line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise WrongSettings(f"{path}: {str(error).splitlines()[0]}") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise WrongSettings(f"{path} must hold settings, as `name: value` lines")
    return found


# --- what is wrong, in words ---
def _explained(error: ValidationError) -> list[str]:
    lines = []
    for found in error.errors(include_url=False, include_input=False, include_context=False):
        place = [str(part) for part in found["loc"]]
        name = ".".join(place)
        if found["type"] == "extra_forbidden":
            line = f"{name} is not a setting{_did_you_mean(place[-1], _names_at(place[:-1]), place[:-1])}"
        elif found["type"] == "missing":
            line = f"{name} is missing"
        else:
            text = found["msg"].removeprefix("Value error, ")
            line = f"{name}: {text}" if name else text
        lines.append(line)
    return lines


def _names_at(place: Iterable[str]) -> list[str]:
    model: type[BaseModel] | None = RegionSettings
    for part in place:
        if model is None:
            return []
        field = model.model_fields.get(part)
        model = _section_of(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in `Section` or `Section | None`."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _did_you_mean(name: str, known: Iterable[str], place: Iterable[str] = (), separator: str = ".") -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {separator.join([*place, near[0]])}?" if near else ""


def _refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """A name with __ is meant for a section; one without, only if it looks like a setting: others are for other programs."""
    wrong = []
    known = [name.upper() for name in RegionSettings.model_fields]
    for variable in sorted(environment):
        if not variable.upper().startswith(PREFIX):
            continue
        section, separator, rest = variable.upper().removeprefix(PREFIX).partition("__")
        near = difflib.get_close_matches(section, known, n=1, cutoff=0.6 if separator else 0.8)
        if section not in known and (separator or near):
            meant = f": did you mean {PREFIX}{near[0]}{separator}{rest}?" if near else ""
            wrong.append(f"environment variable {variable} is not a setting{meant}")
    if wrong:
        raise WrongSettings("\n".join(wrong))


# --- secrets in files ---
def _with_passwords(settings: RegionSettings) -> RegionSettings:
    changed: dict[str, BaseModel] = {
        name: section.model_copy(update={"password": _password(section.password_file, name), "password_file": None})
        for name, section in _databases(settings).items()
        if section.password_file is not None
    }
    witness = settings.regions.witness_store
    if witness is not None and witness.password_file is not None:
        password = _password(witness.password_file, "regions.witness_store")
        witness = witness.model_copy(update={"password": password, "password_file": None})
        changed["regions"] = settings.regions.model_copy(update={"witness_store": witness})
    return settings.model_copy(update=changed) if changed else settings


def _password(path: Path, name: str) -> SecretStr:
    try:
        return SecretStr(path.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise WrongSettings(f"{name}.password_file: {path} cannot be read: {reason}") from None


def _databases(settings: RegionSettings) -> dict[str, DatabaseSection]:
    found = {"store": settings.store, "visibility": settings.visibility}
    return {name: section for name, section in found.items() if section is not None}
