"""What each call of the public services needs. Deny by default: a call without a line here is refused at start, and a test
compares the table with the descriptors."""

from __future__ import annotations

from enum import Enum


class Permission(Enum):
    """What a caller may do. All but PUBLIC, CLUSTER_READ and CLUSTER_ADMIN are held per namespace."""

    PUBLIC = "public"  # facts about the server that a client needs before it can say who it is
    READ = "read"
    WRITE = "write"  # start, signal, cancel, terminate ...
    WORKER = "worker"  # poll and answer tasks
    ADMIN = "admin"  # change the namespace itself
    CLUSTER_READ = "cluster-read"
    CLUSTER_ADMIN = "cluster-admin"


_PER_PERMISSION: dict[Permission, str] = {
    Permission.PUBLIC: "GetSystemInfo GetClusterInfo",
    Permission.READ: """
        DescribeNamespace GetWorkflowExecutionHistory GetWorkflowExecutionHistoryReverse ListOpenWorkflowExecutions
        ListClosedWorkflowExecutions ListWorkflowExecutions ListArchivedWorkflowExecutions ScanWorkflowExecutions
        CountWorkflowExecutions QueryWorkflow DescribeWorkflowExecution DescribeTaskQueue ListTaskQueuePartitions
        PollWorkflowExecutionUpdate PollWorkflowExecutionTimeSkipping DescribeSchedule ListScheduleMatchingTimes ListSchedules
        CountSchedules GetWorkerBuildIdCompatibility GetWorkerVersioningRules GetWorkerTaskReachability DescribeDeployment
        DescribeWorkerDeploymentVersion ListDeployments GetDeploymentReachability GetCurrentDeployment
        DescribeWorkerDeployment ListWorkerDeployments DescribeBatchOperation ListBatchOperations DescribeWorkflowRule
        ListWorkflowRules ListWorkers CountWorkers FetchWorkerConfig DescribeWorker DescribeActivityExecution
        DescribeNexusOperationExecution PollActivityExecution PollNexusOperationExecution ListActivityExecutions
        ListNexusOperationExecutions CountActivityExecutions CountNexusOperationExecutions ListSearchAttributes
        ValidateWorkerDeploymentVersionComputeConfig""",
    Permission.WRITE: """
        StartWorkflowExecution ExecuteMultiOperation RequestCancelWorkflowExecution SignalWorkflowExecution
        SignalWithStartWorkflowExecution ResetWorkflowExecution TerminateWorkflowExecution DeleteWorkflowExecution
        UpdateWorkflowExecution ResetStickyTaskQueue CreateSchedule UpdateSchedule PatchSchedule DeleteSchedule
        UpdateWorkerBuildIdCompatibility UpdateWorkerVersioningRules SetCurrentDeployment SetWorkerDeploymentCurrentVersion
        DeleteWorkerDeployment DeleteWorkerDeploymentVersion SetWorkerDeploymentRampingVersion CreateWorkerDeployment
        CreateWorkerDeploymentVersion UpdateWorkerDeploymentVersionComputeConfig UpdateWorkerDeploymentVersionMetadata
        SetWorkerDeploymentManager StartBatchOperation StopBatchOperation UpdateActivityOptions
        UpdateWorkflowExecutionOptions PauseActivity UnpauseActivity ResetActivity CreateWorkflowRule DeleteWorkflowRule
        TriggerWorkflowRule UpdateTaskQueueConfig UpdateWorkerConfig PauseWorkflowExecution UnpauseWorkflowExecution
        StartActivityExecution StartNexusOperationExecution RequestCancelActivityExecution
        RequestCancelNexusOperationExecution TerminateActivityExecution DeleteActivityExecution PauseActivityExecution
        ResetActivityExecution UnpauseActivityExecution UpdateActivityExecutionOptions TerminateNexusOperationExecution
        DeleteNexusOperationExecution""",
    Permission.WORKER: """
        PollWorkflowTaskQueue RespondWorkflowTaskCompleted RespondWorkflowTaskFailed PollActivityTaskQueue
        RecordActivityTaskHeartbeat RecordActivityTaskHeartbeatById RespondActivityTaskCompleted
        RespondActivityTaskCompletedById RespondActivityTaskFailed RespondActivityTaskFailedById RespondActivityTaskCanceled
        RespondActivityTaskCanceledById RespondQueryTaskCompleted ShutdownWorker PollNexusTaskQueue RespondNexusTaskCompleted
        RespondNexusTaskFailed RecordWorkerHeartbeat""",
    Permission.ADMIN: "UpdateNamespace DeprecateNamespace AddSearchAttributes RemoveSearchAttributes DeleteNamespace",
    Permission.CLUSTER_READ: "ListNamespaces GetSearchAttributes ListClusters GetNexusEndpoint ListNexusEndpoints",
    Permission.CLUSTER_ADMIN: """
        RegisterNamespace AddOrUpdateRemoteCluster RemoveRemoteCluster CreateNexusEndpoint UpdateNexusEndpoint
        DeleteNexusEndpoint""",
}

PERMISSIONS: dict[str, Permission] = {name: permission for permission, names in _PER_PERMISSION.items() for name in names.split()}
