import io.nexusrpc.Operation;
import io.nexusrpc.OperationException;
import io.nexusrpc.Service;
import io.nexusrpc.handler.HandlerException;
import io.nexusrpc.handler.OperationHandler;
import io.nexusrpc.handler.OperationImpl;
import io.nexusrpc.handler.ServiceImpl;
import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowClientOptions;
import io.temporal.client.WorkflowOptions;
import io.temporal.failure.ApplicationFailure;
import io.temporal.failure.CanceledFailure;
import io.temporal.failure.NexusOperationFailure;
import io.temporal.nexus.Nexus;
import io.temporal.nexus.WorkflowRunOperation;
import io.temporal.serviceclient.WorkflowServiceStubs;
import io.temporal.serviceclient.WorkflowServiceStubsOptions;
import io.temporal.worker.Worker;
import io.temporal.worker.WorkerFactory;
import io.temporal.workflow.CancellationScope;
import io.temporal.workflow.NexusOperationHandle;
import io.temporal.workflow.NexusOperationOptions;
import io.temporal.workflow.NexusServiceOptions;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.time.Duration;

/** A worker that serves the operations of tests/nexus/services.py and calls them: Main ADDRESS NAMESPACE QUEUE. */
public class Main {
  @Service(name = "Work")
  public interface Work {
    @Operation(name = "echo")
    String echo(String input);

    @Operation(name = "refuse")
    String refuse(String input);

    @Operation(name = "run")
    String run(String input);
  }

  @ServiceImpl(service = Work.class)
  public static class WorkImpl {
    @OperationImpl
    public OperationHandler<String, String> echo() {
      return OperationHandler.sync((context, details, input) -> "hello " + input);
    }

    @OperationImpl
    public OperationHandler<String, String> refuse() {
      return OperationHandler.sync(
          (context, details, input) -> {
            if (input.equals("failed")) throw OperationException.failure(new RuntimeException("bad luck"));
            throw new HandlerException(HandlerException.ErrorType.BAD_REQUEST, new RuntimeException("wrong"));
          });
    }

    @OperationImpl
    public OperationHandler<String, String> run() {
      return WorkflowRunOperation.fromWorkflowMethod(
          (context, details, input) ->
              Nexus.getOperationContext()
                      .getWorkflowClient()
                      .newWorkflowStub(
                          Backing.class,
                          WorkflowOptions.newBuilder().setWorkflowId("backing-" + details.getRequestId()).build())
                  ::run);
    }
  }

  @WorkflowInterface
  public interface Backing {
    @WorkflowMethod(name = "backing")
    String run(String word);
  }

  public static class BackingImpl implements Backing {
    public String run(String word) {
      if (word.equals("fail")) throw ApplicationFailure.newNonRetryableFailure("it broke", "Broken");
      if (word.equals("wait")) Workflow.sleep(Duration.ofDays(1)); // until it is cancelled
      return "worked on " + word;
    }
  }

  static Work client(String endpoint) {
    return Workflow.newNexusServiceStub(
        Work.class,
        NexusServiceOptions.newBuilder()
            .setEndpoint(endpoint)
            .setOperationOptions(
                NexusOperationOptions.newBuilder().setScheduleToCloseTimeout(Duration.ofMinutes(1)).build())
            .build());
  }

  @WorkflowInterface
  public interface Call {
    @WorkflowMethod(name = "Call")
    String run(String operation, String input, String endpoint);
  }

  public static class CallImpl implements Call {
    public String run(String operation, String input, String endpoint) {
      Work work = client(endpoint);
      return operation.equals("echo") ? work.echo(input) : operation.equals("run") ? work.run(input) : work.refuse(input);
    }
  }

  /** Cancels an operation once it has started, and tells what came of it. */
  @WorkflowInterface
  public interface Cancels {
    @WorkflowMethod(name = "Cancels")
    String run(String operation, String input, String endpoint);
  }

  public static class CancelsImpl implements Cancels {
    private NexusOperationHandle<String> handle;

    public String run(String operation, String input, String endpoint) {
      Work work = client(endpoint);
      CancellationScope scope =
          Workflow.newCancellationScope(() -> handle = Workflow.startNexusOperation(work::run, input));
      scope.run();
      handle.getExecution().get();
      scope.cancel();
      try {
        handle.getResult().get();
      } catch (NexusOperationFailure failure) {
        if (failure.getCause() instanceof CanceledFailure) return "cancelled";
        throw failure;
      }
      return "not cancelled";
    }
  }

  public static void main(String[] args) {
    WorkflowServiceStubs service =
        WorkflowServiceStubs.newServiceStubs(WorkflowServiceStubsOptions.newBuilder().setTarget(args[0]).build());
    WorkflowClient client =
        WorkflowClient.newInstance(service, WorkflowClientOptions.newBuilder().setNamespace(args[1]).build());
    WorkerFactory factory = WorkerFactory.newInstance(client);
    Worker worker = factory.newWorker(args[2]);
    worker.registerWorkflowImplementationTypes(BackingImpl.class, CallImpl.class, CancelsImpl.class);
    worker.registerNexusServiceImplementation(new WorkImpl());
    factory.start();
    System.out.println("ready");
  }
}
