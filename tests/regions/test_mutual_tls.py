"""The public port with mutual TLS: clients and regions show certificates; who has none, or a stranger's, is not served."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trustme
from temporalio.api.workflowservice.v1 import GetSystemInfoRequest, WorkflowServiceStub
from temporalio.service import TLSConfig

from cluster.frontend.front_tls import FrontTls
from tests.regions.regions import TWO, regions
from tests.regions.workflows import QUEUE, Letters, worker

NAME = "outlast.test"


def files(folder: Path, authority: trustme.CA) -> FrontTls:
    made = authority.issue_cert(NAME, "127.0.0.1")
    names = [str(folder / name) for name in ("certificate.pem", "key.pem", "authority.pem")]
    made.cert_chain_pems[0].write_to_path(names[0])
    made.private_key_pem.write_to_path(names[1])
    authority.cert_pem.write_to_path(names[2])
    return FrontTls(*names, peer_name=NAME)


def client_tls(tls: FrontTls) -> TLSConfig:
    return TLSConfig(
        server_root_ca_cert=Path(tls.authority).read_bytes(),
        domain=NAME,
        client_cert=Path(tls.certificate).read_bytes(),
        client_private_key=Path(tls.key).read_bytes(),
    )


async def test_regions_and_official_clients_speak_mutual_tls(tmp_path: Path) -> None:
    tls = files(tmp_path, trustme.CA())
    async with regions(TWO, tls=tls, client_tls=client_tls(tls)) as c:
        await c.one.start_workflow(Letters.run, "a", id="w", task_queue=QUEUE)
        await c.agree()
        await c.fail_over("c2")
        async with worker(c.one):
            await c.one.get_workflow_handle("w").signal(Letters.tell, "end")
            assert sorted(await c.two.get_workflow_handle("w", result_type=list[str]).result()) == ["a", "end"]
        await c.agree()


@pytest.mark.parametrize("who", ["nobody", "a stranger"])
async def test_who_has_no_certificate_of_the_authority_is_not_served(who: str, tmp_path: Path) -> None:
    tls = files(tmp_path, trustme.CA())
    async with regions(TWO[:1], namespaces=(), tls=tls, client_tls=client_tls(tls)) as c:
        root = Path(tls.authority).read_bytes()
        key = chain = None
        if who == "a stranger":
            other = trustme.CA().issue_cert(NAME)
            key, chain = other.private_key_pem.bytes(), other.cert_chain_pems[0].bytes()
        options = (("grpc.ssl_target_name_override", NAME),)
        credentials = grpc.ssl_channel_credentials(root, key, chain)
        async with grpc.aio.secure_channel(f"127.0.0.1:{c.nodes['c1'].port}", credentials, options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await WorkflowServiceStub(channel).GetSystemInfo(GetSystemInfoRequest(), timeout=5)  # type: ignore[arg-type,misc]
            assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
