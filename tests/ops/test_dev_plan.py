"""What the regions of `outlast dev --regions` are to be, and which options are refused."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from ops.cli.dev_options import DevOptions, WrongOption, check
from ops.cli.dev_plan import kinds_of, lines_of, load, next_free, plan_regions, save, with_store
from ops.servers import free_port


def options(**changed: Any) -> DevOptions:
    given: dict[str, Any] = {
        "ip": "127.0.0.1", "port": 0, "http_port": 0, "db": None, "sync": "full", "namespaces": ("team",),
        "search_attributes": (), "shards": None, "log_level": "warning", "regions": 3,
    }  # fmt: skip
    return DevOptions(**{**given, **changed})


def test_regions_differ_in_name_version_shards_and_file_and_share_a_witness(tmp_path: Path) -> None:
    plans = plan_regions(options(), tmp_path)
    configs = [plan.config for plan in plans]
    assert [plan.name for plan in plans] == ["one", "two", "three"]
    assert [config.initial_failover_version for config in configs] == [1, 2, 3]
    assert [config.shards for config in configs] == [4, 7, 3]
    assert len({config.store_config.url for config in configs}) == 3
    witnesses = {config.regions.witness_store.url for config in configs if config.regions.witness_store is not None}
    assert witnesses == {str(tmp_path / "witness.db")}
    assert [config.namespaces for config in configs] == [("default", "team"), (), ()], "the others get them from the first one"


def test_a_region_is_a_thousand_ports_further_or_on_the_next_free_one(tmp_path: Path) -> None:
    first = free_port()
    while first > 60_000:
        first = free_port()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", first + 1_000))
        busy.listen()
        ports = [plan.config.port for plan in plan_regions(options(port=first), tmp_path)]
    assert ports[0] == first and ports[1] > first + 1_000 and ports[2] >= first + 2_000 and len(set(ports)) == 3
    assert next_free("127.0.0.1", first, {first}) > first


def test_ports_that_nobody_named_are_no_outgoing_connections(tmp_path: Path) -> None:
    """A region that was killed comes back on its port: meanwhile the system must not have given it to somebody."""
    plans = plan_regions(options(), tmp_path)
    ports = [port for plan in plans for port in (plan.config.port, plan.config.http_port)]
    assert len(set(ports)) == 6 and all(20_000 <= port < 30_200 for port in ports)


def test_a_directory_keeps_its_shard_counts(tmp_path: Path) -> None:
    before = plan_regions(options(shards=5), tmp_path)
    save(tmp_path, {plan.name: plan for plan in before})
    assert [plan.config.shards for plan in plan_regions(options(), tmp_path)] == [5, 5, 5]
    assert load(tmp_path) == {plan.name: plan for plan in before}


def test_a_directory_whose_servers_are_gone_is_not_used_again(tmp_path: Path) -> None:
    before = plan_regions(options(stores="sqlite,postgres,sqlite"), tmp_path)
    save(tmp_path, {plan.name: plan for plan in before})
    for stores in ("", "sqlite,postgres,sqlite"):
        with pytest.raises(WrongOption, match="use another --db"):
            plan_regions(options(stores=stores), tmp_path)


def test_a_cassandra_gets_a_file_for_its_lists(tmp_path: Path) -> None:
    plan = plan_regions(options(stores="cassandra,postgres,mariadb"), tmp_path)[0]
    config = with_store(plan, "cassandra://127.0.0.1:1/k", tmp_path).config
    assert config.store_config.kind == "cassandra" and config.visibility_config.kind == "sqlite"
    assert "cassandra (lost at exit)" in next(lines_of([plan]))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"regions": 1, "stores": "postgres"}, "--stores and --restart are for --regions"),
        ({"regions": 1, "restart": True}, "--stores and --restart are for --regions"),
        ({"regions": 1, "region": "one"}, "say which by --db"),
        ({"sync": "no"}, "--sync"),
        ({"search_attributes": ("A=B",)}, "--search-attribute"),
    ],
)
def test_options_that_do_not_fit_are_refused(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(WrongOption, match=told):
        check(options(**changed))


@pytest.mark.parametrize("stores", ["sqlite,sqlite,sqlite", "oracle"])
def test_stores_that_do_not_fit_are_refused(stores: str) -> None:
    with pytest.raises(WrongOption, match="--stores"):
        kinds_of(stores, 2)


def test_a_directory_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongOption, match="no directory of"):
        load(tmp_path)
