// A worker that serves the operations of tests/nexus/services.py and calls them: main.js ADDRESS NAMESPACE QUEUE.
const nexus = require('nexus-rpc');
const { WorkflowRunOperationHandler, startWorkflow } = require('@temporalio/nexus');
const { NativeConnection, Worker } = require('@temporalio/worker');

const Work = nexus.service('Work', { echo: nexus.operation(), refuse: nexus.operation(), run: nexus.operation() });
const handler = nexus.serviceHandler(Work, {
  async echo(ctx, input) {
    return `hello ${input}`;
  },
  async refuse(ctx, input) {
    if (input === 'failed') throw new nexus.OperationError('failed', 'bad luck');
    throw new nexus.HandlerError('BAD_REQUEST', 'wrong');
  },
  run: new WorkflowRunOperationHandler((ctx, input) =>
    startWorkflow(ctx, 'backing', { args: [input], workflowId: `backing-${ctx.requestId}` })
  ),
});

async function main() {
  const [address, namespace, taskQueue] = process.argv.slice(2);
  const connection = await NativeConnection.connect({ address });
  const worker = await Worker.create({
    connection,
    namespace,
    taskQueue,
    workflowsPath: require.resolve('./workflows'),
    nexusServices: [handler],
  });
  console.log('ready');
  await worker.run();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
