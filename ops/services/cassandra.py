"""A real Cassandra for tests: jars from Maven Central started with Java 17, one node on loopback, ended by its process id.

The commit log is synced before each acknowledgement (`batch`), so a kill is a crash, and what was acknowledged survives it.
The jars are kept in ~/.cache/outlast-services, with an archive of the loaded classes, which halves the time of later starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ops.services.processes import Daemon, ServiceUnavailable, accepts_connections, ensure_installed, free_port, private_folder

VERSION = "5.0.9"
PACKAGES = ["openjdk-17-jre-headless", "maven"]
USER = "root"  # or whoever runs the tests: Cassandra itself does not mind
HOME = Path(os.environ.get("OUTLAST_SERVICES_CACHE", Path.home() / ".cache" / "outlast-services")) / f"cassandra-{VERSION}"
START_TIMEOUT_S = 180.0

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>cassandra-run</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId><version>{VERSION}</version>
  </dependency></dependencies>
</project>
"""

# What Cassandra's own start script gives to Java 17.
_EXPORTS = [
    "java.base/jdk.internal.misc", "java.base/jdk.internal.ref", "java.base/sun.nio.ch", "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry", "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport.tcp", "java.sql/java.sql", "jdk.unsupported/sun.misc",
]  # fmt: skip
_OPENS = [
    "java.base/java.io", "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect",
    "java.base/java.math", "java.base/java.net", "java.base/java.nio", "java.base/java.util",
    "java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math", "java.base/jdk.internal.module", "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect", "java.base/jdk.internal.util.jar", "java.base/sun.nio.ch",
    "java.rmi/sun.rmi.transport.tcp", "jdk.management/com.sun.management.internal",
]  # fmt: skip

_LOGBACK = """<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date %F:%L %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
"""


def _settings(folder: Path, port: int, storage_port: int) -> dict[str, str]:
    return {
        "cluster_name": "'test'",
        "num_tokens": "1",
        "initial_token": "0",
        "auto_bootstrap": "false",
        "hinted_handoff_enabled": "false",
        "authenticator": "AllowAllAuthenticator",
        "authorizer": "AllowAllAuthorizer",
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "data_file_directories": f"[ {folder}/data ]",
        "commitlog_directory": f"{folder}/commitlog",
        "hints_directory": f"{folder}/hints",
        "saved_caches_directory": f"{folder}/saved_caches",
        "cdc_raw_directory": f"{folder}/cdc",
        "commitlog_sync": "batch",
        "commitlog_segment_size": "32MiB",
        "commitlog_total_space": "256MiB",
        "key_cache_size": "8MiB",
        "counter_cache_size": "0MiB",
        "networking_cache_size": "16MiB",
        "file_cache_size": "32MiB",
        "memtable_heap_space": "64MiB",
        "memtable_offheap_space": "64MiB",
        "concurrent_compactors": "1",
        "compaction_throughput": "0MiB/s",
        "disk_optimization_strategy": "ssd",
        "disk_access_mode": "mmap_index_only",
        "seed_provider": "[ { class_name: org.apache.cassandra.locator.SimpleSeedProvider,"
        f' parameters: [ {{ seeds: "127.0.0.1:{storage_port}" }} ] }} ]',
        "listen_address": "127.0.0.1",
        "rpc_address": "127.0.0.1",
        "storage_port": str(storage_port),
        "native_transport_port": str(port),
        "endpoint_snitch": "SimpleSnitch",
        "auto_snapshot": "false",
    }


class CassandraServer:
    """One node, no password, loopback only. Port and data stay over restarts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._own_archive = folder / "classes.jsa"
        settings = _settings(folder, self.port, free_port())
        (folder / "cassandra.yaml").write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
        (folder / "logback.xml").write_text(_LOGBACK)
        self._daemon = Daemon(self._command(), USER, folder / "log")

    def _command(self) -> list[str]:
        jars = sorted((HOME / "lib").glob("*.jar"))
        jamm = next(jar for jar in jars if jar.name.startswith("jamm-"))
        archive = HOME / "classes.jsa"
        use = f"-XX:SharedArchiveFile={archive}" if archive.exists() else f"-XX:ArchiveClassesAtExit={self._own_archive}"
        folder = self._folder
        return [
            shutil.which("java") or "java",
            *("-XX:+UnlockDiagnosticVMOptions", "-XX:+AllowArchivingWithJavaAgent", use),
            *("-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-Xlog:class+path=off"),
            f"-javaagent:{jamm}",
            *("-Xms128M", "-Xmx512M", "-XX:MaxDirectMemorySize=256M", "-Xss256k"),
            *("-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+PerfDisableSharedMem", "-XX:TieredStopAtLevel=4"),
            *("-Djdk.attach.allowAttachSelf=true", "-Djava.security.manager=allow", "-Djna.nosys=true"),
            *(part for module in _EXPORTS for part in ("--add-exports", f"{module}=ALL-UNNAMED")),
            *(part for module in _OPENS for part in ("--add-opens", f"{module}=ALL-UNNAMED")),
            f"-Dcassandra.config=file://{folder}/cassandra.yaml",
            f"-Dlogback.configurationFile={folder}/logback.xml",
            *(f"-Dcassandra.logdir={folder}", f"-Dcassandra.storagedir={folder}", "-Dcassandra-foreground=yes"),
            *("-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=1"),
            *("-Dcassandra.superuser_setup_delay_ms=0", "-Dcassandra.native_transport_startup_delay_seconds=0"),
            *("-Dio.netty.eventLoopThreads=2", "-Djava.net.preferIPv4Stack=true"),
            *("-cp", ":".join(map(str, jars)), "org.apache.cassandra.service.CassandraDaemon"),
        ]

    @property
    def pid(self) -> int:
        return self._daemon.pid

    def url(self, keyspace: str, port: int | None = None) -> str:
        return f"cassandra://127.0.0.1:{port or self.port}/{keyspace}?replication_factor=1"

    def start(self) -> None:
        self._daemon.start(lambda: accepts_connections(self.port), START_TIMEOUT_S)

    def stop(self) -> None:
        self._daemon.end(signal.SIGTERM)
        if self._own_archive.exists() and not (HOME / "classes.jsa").exists():
            beside = HOME / f"classes.{os.getpid()}"
            shutil.move(self._own_archive, beside)
            beside.replace(HOME / "classes.jsa")  # in one step: another test process may start from it right now

    def kill(self) -> None:
        self._daemon.end(signal.SIGKILL)

    def pause(self) -> None:
        """Its connections stay open and nobody answers. Returns when the last of its threads has stopped."""
        self._daemon.send(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        while any((thread / "stat").read_text().rpartition(") ")[2][0] != "T" for thread in threads.iterdir()):
            time.sleep(0.001)

    def resume(self) -> None:
        self._daemon.send(signal.SIGCONT)


def _ensure_jars() -> None:
    """Two test processes do not download at once."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (HOME / "complete").exists():
            return
        (HOME / "pom.xml").write_text(_POM)
        copy = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=lib"]
        done = subprocess.run(copy, cwd=HOME, capture_output=True, text=True)
        if done.returncode != 0:
            raise ServiceUnavailable(f"{' '.join(copy)} failed:\n{done.stdout[-3_000:]}")
        (HOME / "complete").touch()


@contextlib.contextmanager
def cassandra_server() -> Iterator[CassandraServer]:
    ensure_installed(lambda: shutil.which("java") is not None and shutil.which("mvn") is not None, PACKAGES)
    _ensure_jars()
    with private_folder(USER) as folder:
        server = CassandraServer(folder)
        server.start()
        try:
            yield server
        finally:
            # An orderly stop takes 5 s and is worth it only once, for the archive.
            if (HOME / "classes.jsa").exists():
                server.kill()
            else:
                server.stop()
