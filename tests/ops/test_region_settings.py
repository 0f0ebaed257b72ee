"""region.yaml and OUTLAST_... variables: what is read, what is refused and how, and that no secret is ever shown."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from cluster.config import MIB, Limits
from cluster.node_config import NodeConfig, StoreTls
from ops.cli.server import json_schema
from ops.region.reading import WrongSettings, read_settings
from ops.region.settings import RegionSettings
from ops.region.values import HIDDEN, node_config_of, shown, without_password

ROOT = Path(__file__).resolve().parents[2]
SQLITE = "store: {url: /data/outlast.db}\n"


def region(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "region.yaml"
    path.write_text(text)
    return path


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(WrongSettings) as refusal:
        read_settings(region(tmp_path, text))
    return str(refusal.value)


# --- reading ---
def test_a_small_file_is_enough_and_the_rest_has_the_nodes_own_defaults(tmp_path: Path) -> None:
    config = node_config_of(read_settings(region(tmp_path, SQLITE)))
    assert config.store_config.kind == "sqlite" and config.store_config.url == "/data/outlast.db"
    plain = NodeConfig()
    other = ("store", "db")
    same = [name for name in plain.__struct_fields__ if name not in other]
    assert {name: getattr(config, name) for name in same} == {name: getattr(plain, name) for name in same}


def test_everything_that_can_be_set_arrives_at_the_node(tmp_path: Path) -> None:
    text = """
cluster_name: north
shards: 64
allow_insecure: true
namespaces: [default, orders]
search_attributes: {City: Keyword, Age: Int}
drain_s: 7
hand_over_s: 9
node: {id: n1, zone: a, roles: [history, matching]}
grpc: {ip: 0.0.0.0, port: 1}
http: {port: 2}
wire: {ip: 0.0.0.0, port: 3, advertise: n1.example, limits: {connections_max: 9},
       tls: {certificate: /c, key: /k, authority: /a, peer_name: node}}
etcd: {endpoints: ["e1:2379", "e2:2379"], prefix: /north/, lease_ttl_s: 9, call_timeout_s: 2, join_timeout_s: 3,
       tls: {authority: /ca}, flapping: {free_joins: 50}}
store: {url: "postgresql://db/outlast", user: me, password: "p@ss/word", tls: {authority: /dbca}, sync: normal,
        connections_count_max: 20, statement_timeout_s: 2}
visibility: {url: "mysql://v@db/lists", connections_count_max: 6}
limits: {payload_bytes_max: 1048576}
"""
    config = node_config_of(read_settings(region(tmp_path, text)))
    assert (config.cluster_name, config.shards, config.allow_insecure) == ("north", 64, True)
    assert (config.drain_s, config.hand_over_s, config.namespaces) == (7, 9, ("default", "orders"))
    assert config.search_attributes == {"City": 2, "Age": 3}  # AttributeType numbers
    assert (config.node_id, config.zone, config.roles) == ("n1", "a", ("history", "matching"))
    assert (config.ip, config.port, config.http_port) == ("0.0.0.0", 1, 2)
    assert config.wire is not None and config.wire.limits.connections_max == 9
    assert (config.wire.port, config.wire.advertise) == (3, "n1.example")
    assert config.wire.tls is not None and config.wire.tls.peer_name == "node"
    assert config.etcd is not None and config.etcd.endpoints == ("e1:2379", "e2:2379") and config.etcd.prefix == "/north/"
    assert config.etcd.tls is not None and config.etcd.tls.authority == Path("/ca") and config.etcd.flapping.free_joins == 50
    assert config.store is not None and config.store.url == "postgresql://me:p%40ss%2Fword@db/outlast"
    assert config.store.tls == StoreTls(authority="/dbca") and config.store.sync == "normal"
    assert config.visibility is not None and config.visibility.kind == "mysql"
    assert config.limits == Limits(payload_bytes_max=MIB)


def test_the_environment_is_put_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OUTLAST_STORE__URL": "postgresql://db/outlast",
        "OUTLAST_STORE__PASSWORD": "secret",
        "OUTLAST_NODE__ID": "n7",
        "OUTLAST_WIRE__PORT": "7",
        "OUTLAST_ETCD__ENDPOINTS": "e1:2379, e2:2379",
        "OUTLAST_NODE__ROLES": "[history]",
        "OUTLAST_SEARCH_ATTRIBUTES": "{City: Keyword}",
        "OUTLAST_LIMITS__ID_BYTES_MAX": "99",
    }.items():
        monkeypatch.setenv(name, value)
    config = node_config_of(read_settings(region(tmp_path, SQLITE + "node: {zone: a}\nshards: 3")))
    assert config.store_config.url == "postgresql://:secret@db/outlast"
    assert (config.node_id, config.zone, config.shards, config.roles) == ("n7", "a", 3, ("history",))
    assert config.etcd is not None and config.etcd.endpoints == ("e1:2379", "e2:2379")
    assert config.search_attributes == {"City": 2} and config.limits.id_bytes_max == 99


def test_a_password_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    text = f"store: {{url: 'postgresql://me@db/outlast', password_file: {tmp_path / 'password'}}}"
    config = node_config_of(read_settings(region(tmp_path, text)))
    assert config.store_config.url == "postgresql://me:from%20a%20file@db/outlast"
    assert "password_file: /none cannot be read" in refused(tmp_path, "store: {url: 'mysql://me@db/o', password_file: /none}")


# --- refusing ---
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("store: {urll: /x, url: /y}", "store.urll is not a setting: did you mean store.url?"),
        (SQLITE + "etdc: {}", "etdc is not a setting: did you mean etcd?"),
        (SQLITE + "limits: {payload_byte_max: 1}", "did you mean limits.payload_bytes_max?"),
        (SQLITE + "wire: {limits: {connection_max: 1}}", "did you mean wire.limits.connections_max?"),
        (SQLITE + "shards: many", "shards: Input should be a valid integer"),
        (SQLITE + "shards: 0", "shards: Input should be greater than or equal to 1"),
        (SQLITE + "grpc: {port: 65536}", "grpc.port: Input should be less than or equal to 65535"),
        (SQLITE + "node: {roles: [cook]}", "node.roles.0: Input should be 'frontend', 'history'"),
        (SQLITE + "log: {level: loud}", "log.level: Input should be 'debug', 'info'"),
        (SQLITE + SQLITE, "line 2: store is there twice"),
        ("store: [", "line 1"),
        ("- store", "must hold settings"),
        ("", "store is missing"),
        ("store: {}", "store: needs a url, or kind: memory"),
        ("store: {url: 'oracle://db/x'}", "store: url begins with oracle://, known are postgresql://"),
        ("store: {kind: mysql, url: 'postgresql://db/x'}", "store: kind mysql has a url of postgres"),
        ("store: {kind: postgres}", "store: kind postgres has no url"),
        ("store: {url: 'cassandra://db/x'}", "visibility is needed with a Cassandra store"),
        (SQLITE + "visibility: {url: 'cassandra://db/x'}", "visibility: Cassandra cannot list runs"),
        (SQLITE + "etcd: {endpoints: [e]}\nwire: {}\nnode: {id: a}", "nodes of a cluster share what they store"),
        ("store: {url: 'mysql://db/x'}\netcd: {endpoints: [e]}\nnode: {id: a}", "etcd and wire go together"),
        ("store: {url: 'mysql://db/x'}\netcd: {endpoints: [e]}\nwire: {}", "node.id is needed with etcd"),
        ("store: {kind: memory}\nprocesses: 2", "memory cannot be shared"),
        ("store: {url: 'mysql://db/x', password: a, password_file: /b}", "password or password_file, not both"),
        ("store: {url: 'mysql://db/x', tls: {certificate: /c}}", "store.tls: certificate and key go together"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    assert told in refused(tmp_path, text)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    assert len(refused(tmp_path, "store: {urll: /x, url: /y}\nshards: 0\nlog: {level: loud}").splitlines()) == 3


@pytest.mark.parametrize(
    "text", ["store: {url: 7, password: {a: hunter2}}", "store: {password: hunter2, urll: x}", "shards: hunter2"]
)
def test_a_refusal_never_quotes_a_value(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in refused(tmp_path, text)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WrongSettings, match=r"none\.yaml cannot be read: No such file"):
        read_settings(tmp_path / "none.yaml")


def test_a_variable_that_is_no_setting_is_refused_unless_it_is_for_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_FUZZ_S", "60")
    read_settings(region(tmp_path, SQLITE))
    monkeypatch.setenv("OUTLAST_STOER__URL", "x")
    assert "OUTLAST_STOER__URL is not a setting: did you mean OUTLAST_STORE__URL?" in refused(tmp_path, SQLITE)
    monkeypatch.delenv("OUTLAST_STOER__URL")
    monkeypatch.setenv("OUTLAST_STORE__URLL", "x")
    assert "store.urll is not a setting" in refused(tmp_path, SQLITE)
    monkeypatch.delenv("OUTLAST_STORE__URLL")
    monkeypatch.setenv("OUTLAST_SHARD", "4")
    assert "did you mean OUTLAST_SHARDS?" in refused(tmp_path, SQLITE)


# --- showing ---
def test_the_effective_configuration_shows_no_secret_and_can_be_read_again(tmp_path: Path) -> None:
    text = "store: {url: 'postgresql://me:hunter2@db/outlast?sslpassword=hunter3', password: hunter4}\nshards: 5\n"
    told = shown(read_settings(region(tmp_path, text)))
    assert "hunter" not in told and told.count(HIDDEN) == 3
    assert read_settings(region(tmp_path, told)).shards == 5


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:p@h:1/d", f"postgresql://u:{HIDDEN}@h:1/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://h/d?user=u&password=p", f"postgresql://h/d?user=u&password={HIDDEN}"),
        ("cassandra://u:p:q@h1:1,h2:2/k?dc=a", f"cassandra://u:{HIDDEN}@h1:1,h2:2/k?dc=a"),
        ("/data/outlast.db", "/data/outlast.db"),
    ],
)
def test_a_password_in_a_url_is_hidden_wherever_it_stands(url: str, told: str) -> None:
    assert without_password(url) == told


# --- the schema ---
def test_the_exported_schema_is_current() -> None:
    again = "run: .venv/bin/outlast server --json-schema > ops/docs/region.schema.json"
    assert (ROOT / "ops" / "docs" / "region.schema.json").read_text() == json_schema(), again


def test_every_setting_is_documented() -> None:
    schema = json.loads(json_schema())
    sections = {"": schema, **schema["$defs"]}
    own = {"node", "grpc", "http", "store", "limits", "log"}  # sections, documented by their own text
    bare = [
        f"{name}.{key}"
        for name, section in sections.items()
        for key, value in section["properties"].items()
        if "description" not in value and not (name == "" and key in own)
    ]
    assert bare == [] and all(section.get("description") for name, section in sections.items() if name)


def test_the_exported_schema_accepts_what_the_program_accepts_and_refuses_what_it_refuses(tmp_path: Path) -> None:
    schema = json.loads(json_schema())
    settings = read_settings(region(tmp_path, "store: {url: 'mysql://u:p@h/d'}\nnode: {id: a}\nwire: {}\netcd: {endpoints: [e]}"))
    jsonschema.validate(yaml.safe_load(shown(settings)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"store": {"urll": "x"}}, schema)
    assert set(schema["properties"]) == set(RegionSettings.model_fields)


# --- other regions ---
def test_a_witness_is_a_database_or_an_etcd_and_its_password_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("open sesame\n")
    text = f"""
        store: {{url: one.db}}
        regions:
          witness_store: {{url: "postgresql://u@h/w", password_file: {tmp_path / "secret"}}}
          lease_ttl_s: 6
          mode: strict
          automatic: {{is_on: false, failing_s: 3}}
    """
    settings = read_settings(region(tmp_path, text))
    config = node_config_of(settings).regions
    assert config.witness_store is not None and config.witness_store.url == "postgresql://u:open%20sesame@h/w"
    assert config.lease.ttl_s == 6 and config.lease.is_strict and not config.automatic.is_on and config.automatic.failing_s == 3
    assert "sesame" not in shown(settings) and read_settings(region(tmp_path, shown(settings))) is not None
    etcd = node_config_of(read_settings(region(tmp_path, "store: {url: one.db}\nregions: {witness_etcd: {endpoints: [e:1]}}")))
    assert etcd.regions.witness_etcd is not None and etcd.regions.witness_etcd.prefix == "/outlast-witness/"
    both = "store: {url: one.db}\nregions: {witness_etcd: {endpoints: [e:1]}, witness_store: {url: w.db}}"
    assert "not both" in refused(tmp_path, both)
    assert "strict needs a witness" in refused(tmp_path, "store: {url: one.db}\nregions: {mode: strict}")
    assert "memory is not" in refused(tmp_path, "store: {url: one.db}\nregions: {witness_store: {kind: memory}}")
