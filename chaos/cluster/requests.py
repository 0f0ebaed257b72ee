"""The crash campaign's requests, and terminates whose token travels in the details of the event."""

from __future__ import annotations

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import TerminateWorkflowExecutionRequest

from chaos.checkers.ledger import Act, ActKind
from chaos.crash.requests import Requests, payloads


class ClusterRequests(Requests):
    """A terminate has no request id: repeated after a lost answer, it finds the run closed, or ends the next one."""

    async def terminate(self, client: str, workflow_id: str, run_id: str) -> Act:
        with self.act(ActKind.TERMINATE, workflow_id, client, run_id=run_id) as act:
            request = TerminateWorkflowExecutionRequest(
                namespace=self.client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id),
                reason="the load",
                details=payloads(act.token),
                identity=client,
            )
            service = self.client.workflow_service
            await self._until_answered(act, lambda: service.terminate_workflow_execution(request, timeout=self.ATTEMPT_TIMEOUT))
        return act
