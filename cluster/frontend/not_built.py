"""The calls that Outlast does not serve yet, each with the reason it gives to its caller (status UNIMPLEMENTED).

A test holds that every method of the descriptors is either served or listed here, never both.
"""

from __future__ import annotations

import replication

_PER_REASON: dict[str, str] = {
    "schedules are not built": """
        CreateSchedule DescribeSchedule UpdateSchedule PatchSchedule ListScheduleMatchingTimes DeleteSchedule ListSchedules
        CountSchedules""",
    "batch operations are not built": "StartBatchOperation StopBatchOperation DescribeBatchOperation ListBatchOperations",
    "worker versioning and deployments are not built": """
        UpdateWorkerBuildIdCompatibility GetWorkerBuildIdCompatibility UpdateWorkerVersioningRules GetWorkerVersioningRules
        GetWorkerTaskReachability DescribeDeployment DescribeWorkerDeploymentVersion ListDeployments
        GetDeploymentReachability GetCurrentDeployment SetCurrentDeployment SetWorkerDeploymentCurrentVersion
        DescribeWorkerDeployment DeleteWorkerDeployment DeleteWorkerDeploymentVersion SetWorkerDeploymentRampingVersion
        ListWorkerDeployments CreateWorkerDeployment CreateWorkerDeploymentVersion
        UpdateWorkerDeploymentVersionComputeConfig ValidateWorkerDeploymentVersionComputeConfig
        UpdateWorkerDeploymentVersionMetadata SetWorkerDeploymentManager""",
    "nexus is not built": """
        PollNexusTaskQueue RespondNexusTaskCompleted RespondNexusTaskFailed StartNexusOperationExecution
        DescribeNexusOperationExecution PollNexusOperationExecution ListNexusOperationExecutions
        CountNexusOperationExecutions RequestCancelNexusOperationExecution TerminateNexusOperationExecution
        DeleteNexusOperationExecution GetNexusEndpoint CreateNexusEndpoint UpdateNexusEndpoint DeleteNexusEndpoint
        ListNexusEndpoints""",
    "standalone activities are not built": """
        StartActivityExecution DescribeActivityExecution PollActivityExecution ListActivityExecutions
        CountActivityExecutions RequestCancelActivityExecution TerminateActivityExecution DeleteActivityExecution
        PauseActivityExecution ResetActivityExecution UnpauseActivityExecution UpdateActivityExecutionOptions""",
    "workflow rules are not built": """
        CreateWorkflowRule DescribeWorkflowRule DeleteWorkflowRule ListWorkflowRules TriggerWorkflowRule""",
    "the server does not configure workers": "FetchWorkerConfig UpdateWorkerConfig",
    "time skipping is not built": "PollWorkflowExecutionTimeSkipping",
    "one region: remote clusters are not built": "AddOrUpdateRemoteCluster RemoveRemoteCluster",
}

# Served, once regions can be linked (handlers/clusters.py).
_NEED_LINKED_REGIONS = frozenset({"AddOrUpdateRemoteCluster", "RemoveRemoteCluster"})


def not_built() -> dict[str, str]:
    """By method name, as the switch of replication/__init__.py is now."""
    listed = {name: reason for reason, names in _PER_REASON.items() for name in names.split()}
    left_out = _NEED_LINKED_REGIONS if replication.REGIONS_ARE_LINKED else frozenset()
    return {name: reason for name, reason in listed.items() if name not in left_out}


NOT_BUILT: dict[str, str] = not_built()
