"""The compose files without a Docker daemon: their form by the Compose specification, their contents by the program itself.

compose-spec.json beside this file is schema/compose-spec.json of compose-go v2.16.2 (Apache License 2.0).
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from cluster.node_config import NodeConfig
from ops.cli.main import add_groups, app
from ops.region.checks import check_engines
from ops.region.reading import read_settings
from ops.region.settings import RegionSettings
from ops.region.values import node_config_of

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "ops" / "compose"
FILES = ["compose.postgres.yaml", "compose.cassandra.yaml"]
SECRET = "/run/secrets/database_password"


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((COMPOSE / name).read_text())
    return found


def ours(name: str) -> dict[str, dict[str, Any]]:
    return {service: each for service, each in compose(name)["services"].items() if each["image"].startswith("outlast")}


def nodes(name: str) -> dict[str, dict[str, Any]]:
    return {service: each for service, each in ours(name).items() if service.startswith("node-")}


def settings(service: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegionSettings:
    """As the program in the container reads them."""
    (tmp_path / "database_password").write_text("hunter2\n")
    for name in [name for name in os.environ if name.startswith("OUTLAST_")]:
        monkeypatch.delenv(name)
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, str(value).replace("/run/secrets", str(tmp_path)))
    return read_settings(None)


@pytest.mark.parametrize("name", FILES)
def test_it_is_a_compose_file(name: str) -> None:
    jsonschema.validate(compose(name), json.loads(Path(__file__).with_name("compose-spec.json").read_text()))


@pytest.mark.parametrize("name", FILES)
def test_every_variable_of_a_node_is_a_setting_and_three_nodes_are_one_cluster(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(nodes(name)) == 3
    configs: list[NodeConfig] = []
    for service, each in nodes(name).items():
        config = node_config_of(settings(each, tmp_path, monkeypatch))
        check_engines(config)
        configs.append(config)
        assert config.node_id == service
        assert config.wire is not None and config.wire.advertise == service  # a container's name is its address for the others
        assert (config.ip, config.wire.ip, config.allow_insecure) == ("0.0.0.0", "0.0.0.0", True)
        assert ":hunter2@" in (config.visibility or config.store_config).url
    assert len({config.node_id for config in configs}) == len({config.zone for config in configs}) == 3
    shared = ("store", "visibility", "etcd", "shards", "cluster_name", "limits")
    assert all(getattr(config, field) == getattr(configs[0], field) for config in configs for field in shared)
    assert configs[0].etcd is not None and configs[0].etcd.endpoints == ("etcd:2379",) and configs[0].shards == 32


@pytest.mark.parametrize("name", FILES)
def test_the_tables_are_made_before_the_nodes_start_in_the_same_database(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = ours(name)["schema"]
    assert schema["command"] == ["schema", "upgrade"]
    config = node_config_of(settings(schema, tmp_path, monkeypatch))
    for node in nodes(name).values():
        of_node = node_config_of(settings(node, tmp_path, monkeypatch))
        assert (of_node.store, of_node.visibility) == (config.store, config.visibility)
        assert node["depends_on"]["schema"] == {"condition": "service_completed_successfully"}
    databases = {"postgres"} | ({"cassandra"} if "cassandra" in name else set())
    assert {key for key, value in schema["depends_on"].items() if value["condition"] == "service_healthy"} == databases
    assert all(compose(name)["services"][database]["healthcheck"]["test"] for database in databases)


@pytest.mark.parametrize("name", FILES)
def test_no_container_may_do_more_than_it_needs(name: str) -> None:
    for service, each in compose(name)["services"].items():
        assert str(each["user"]).partition(":")[0] not in ("0", "root"), service
        assert each["cap_drop"] == ["ALL"] and "no-new-privileges:true" in each["security_opt"], service
        assert each.get("read_only") or service == "cassandra", service
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(each), service
        assert all(str(port).startswith("127.0.0.1:") for port in each.get("ports", [])), service
        assert "PASSWORD: " not in yaml.safe_dump(each.get("environment", {})), service  # passwords are files
        assert not each.get("ports") or service.startswith("node-"), service
    assert compose(name)["networks"]["region"] == {"internal": True}


@pytest.mark.parametrize("name", FILES)
def test_a_node_has_the_time_it_may_need_to_move_its_shards(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node in nodes(name).values():
        config = node_config_of(settings(node, tmp_path, monkeypatch))
        assert int(node["stop_grace_period"].removesuffix("s")) > config.drain_s + config.hand_over_s


def commands(name: str) -> list[list[str]]:
    found = [each["command"] for each in ours(name).values() if "command" in each]
    checks = [each["healthcheck"]["test"] for each in ours(name).values() if "test" in each["healthcheck"]]
    return found + [test[test.index("outlast") + 1 :] for test in checks]


def dockerfile_commands() -> list[list[str]]:
    text = (COMPOSE / "Dockerfile").read_text()
    check = json.loads(re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", text, re.MULTILINE)[0])
    assert check[0] == "outlast" and json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0]) == ["outlast"]
    return [check[1:], json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])]


def test_every_command_is_one_of_the_program_with_options_it_has() -> None:
    add_groups()
    wanted = [command for name in FILES for command in commands(name)] + dockerfile_commands()
    assert len(wanted) >= 10
    for command in wanted:
        words = [word for word in command if not word.startswith("-")]
        told = CliRunner().invoke(app, [*words, "--help"], terminal_width=200)
        assert told.exit_code == 0, command
        assert {word for word in command if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", told.output)), command


# --- the image ---
def test_the_image_is_made_from_the_lock_by_the_locked_uv_for_an_unprivileged_user() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    locked = {package["name"]: package["version"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert re.findall(r"uv==(\S+)", text) == [locked["uv"]]
    syncs = re.findall(r"^RUN uv sync (.*)$", text, re.MULTILINE)
    assert len(syncs) == 2 and all("--frozen" in sync and "--no-dev" in sync for sync in syncs)
    user = re.findall(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user == [("10001", "10001")] and text.index("\nUSER ") < text.index("\nENTRYPOINT ")
    assert all(node["user"] == "10001:10001" for name in FILES for node in ours(name).values())


def test_what_the_image_copies_is_there_is_packaged_and_is_let_through() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*packages, "pyproject.toml", "uv.lock", project["project"]["readme"], "LICENSE"} <= set(sources)
    allowed = (COMPOSE / "Dockerfile.dockerignore").read_text().splitlines()
    assert {source for source in sources if f"!{source}" not in allowed} == set()


def test_the_ports_of_the_image_are_those_of_the_settings() -> None:
    exposed = re.findall(r"^EXPOSE (.*)$", (COMPOSE / "Dockerfile").read_text(), re.MULTILINE)[0].split()
    defaults = RegionSettings.model_validate({"store": {"kind": "memory"}, "wire": None})
    wire = RegionSettings.model_fields["wire"].annotation
    assert wire is not None and {str(defaults.grpc.port), str(defaults.http.port), "7235"} == set(exposed)
    for name in FILES:
        inside = {port.rsplit(":", 1)[1] for node in nodes(name).values() for port in node["ports"]}
        assert inside == {str(defaults.grpc.port), str(defaults.http.port)}


def test_the_databases_password_is_never_committed_and_never_in_the_image() -> None:
    assert "database_password" in (COMPOSE / ".gitignore").read_text().split()
    assert "ops/compose/database_password" in (COMPOSE / "Dockerfile.dockerignore").read_text().split()
    for name in FILES:
        assert compose(name)["secrets"] == {"database_password": {"file": "./database_password"}}
