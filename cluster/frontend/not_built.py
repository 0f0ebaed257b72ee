"""The calls that Outlast does not serve yet, each with the reason it gives to its caller (status UNIMPLEMENTED).

A test holds that every method of the descriptors is either served or listed here, never both.
"""

from __future__ import annotations

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
    "Nexus operations that no workflow schedules are not served yet": """
        StartNexusOperationExecution DescribeNexusOperationExecution PollNexusOperationExecution ListNexusOperationExecutions
        CountNexusOperationExecutions RequestCancelNexusOperationExecution TerminateNexusOperationExecution
        DeleteNexusOperationExecution""",
    "standalone activities are not built": """
        StartActivityExecution DescribeActivityExecution PollActivityExecution ListActivityExecutions
        CountActivityExecutions RequestCancelActivityExecution TerminateActivityExecution DeleteActivityExecution
        PauseActivityExecution ResetActivityExecution UnpauseActivityExecution UpdateActivityExecutionOptions""",
    "workflow rules are not built": """
        CreateWorkflowRule DescribeWorkflowRule DeleteWorkflowRule ListWorkflowRules TriggerWorkflowRule""",
    "the server does not configure workers": "FetchWorkerConfig UpdateWorkerConfig",
    "time skipping is not built": "PollWorkflowExecutionTimeSkipping",
}

NOT_BUILT: dict[str, str] = {name: reason for reason, names in _PER_REASON.items() for name in names.split()}
