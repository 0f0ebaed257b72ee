// The workflows of the TypeScript worker.
const wf = require('@temporalio/workflow');
const nexus = require('nexus-rpc');

const Work = nexus.service('Work', { echo: nexus.operation(), refuse: nexus.operation(), run: nexus.operation() });

function client(endpoint) {
  return wf.createNexusServiceClient({ service: Work, endpoint });
}

async function backing(word) {
  if (word === 'fail') throw wf.ApplicationFailure.nonRetryable('it broke');
  if (word === 'wait') await wf.condition(() => false); // until it is cancelled
  return `worked on ${word}`;
}

async function Call(operation, input, endpoint) {
  return await client(endpoint).executeOperation(operation, input, {});
}

// Cancels an operation once it has started, and tells what came of it.
async function Cancels(operation, input, endpoint) {
  const scope = new wf.CancellationScope();
  try {
    await scope.run(async () => {
      const handle = await client(endpoint).startOperation(operation, input, {});
      scope.cancel();
      await handle.result();
    });
  } catch (error) {
    if (wf.isCancellation(error)) return 'cancelled';
    throw error;
  }
  return 'not cancelled';
}

module.exports = { backing, Call, Cancels };
