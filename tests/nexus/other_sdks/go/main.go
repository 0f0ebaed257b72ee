// A worker that serves the operations of tests/nexus/services.py and calls them: worker ADDRESS NAMESPACE QUEUE.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/nexus-rpc/sdk-go/nexus"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporalnexus"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

func backing(ctx workflow.Context, word string) (string, error) {
	if word == "fail" {
		return "", fmt.Errorf("it broke")
	}
	if word == "wait" { // until it is cancelled
		ctx.Done().Receive(ctx, nil)
		return "", ctx.Err()
	}
	return "worked on " + word, nil
}

func call(ctx workflow.Context, operation string, input string, endpoint string) (string, error) {
	var out string
	future := workflow.NewNexusClient(endpoint, "Work").ExecuteOperation(ctx, operation, input, workflow.NexusOperationOptions{})
	err := future.Get(ctx, &out)
	return out, err
}

// Cancels an operation once it has started, and tells what came of it.
func cancels(ctx workflow.Context, operation string, input string, endpoint string) (string, error) {
	inner, cancel := workflow.WithCancel(ctx)
	future := workflow.NewNexusClient(endpoint, "Work").ExecuteOperation(inner, operation, input, workflow.NexusOperationOptions{})
	if err := future.GetNexusOperationExecution().Get(ctx, nil); err != nil {
		return "", err
	}
	cancel()
	if err := future.Get(ctx, nil); err != nil {
		return "cancelled", nil
	}
	return "not cancelled", nil
}

func main() {
	c, err := client.Dial(client.Options{HostPort: os.Args[1], Namespace: os.Args[2]})
	if err != nil {
		log.Fatal(err)
	}
	service := nexus.NewService("Work")
	echo := nexus.NewSyncOperation("echo", func(ctx context.Context, in string, o nexus.StartOperationOptions) (string, error) {
		return "hello " + in, nil
	})
	refuse := nexus.NewSyncOperation("refuse", func(ctx context.Context, in string, o nexus.StartOperationOptions) (string, error) {
		if in == "failed" {
			return "", nexus.NewOperationFailedErrorf("bad luck")
		}
		return "", nexus.NewHandlerErrorf(nexus.HandlerErrorTypeBadRequest, "wrong")
	})
	run := temporalnexus.NewWorkflowRunOperation("run", backing,
		func(ctx context.Context, in string, o nexus.StartOperationOptions) (client.StartWorkflowOptions, error) {
			return client.StartWorkflowOptions{ID: "backing-" + o.RequestID}, nil
		})
	if err := service.Register(echo, refuse, run); err != nil {
		log.Fatal(err)
	}
	w := worker.New(c, os.Args[3], worker.Options{})
	w.RegisterNexusService(service)
	w.RegisterWorkflow(backing)
	w.RegisterWorkflowWithOptions(call, workflow.RegisterOptions{Name: "Call"})
	w.RegisterWorkflowWithOptions(cancels, workflow.RegisterOptions{Name: "Cancels"})
	fmt.Println("ready")
	if err := w.Run(worker.InterruptCh()); err != nil {
		log.Fatal(err)
	}
}
