// A gRPC client without a proxy, for the end-to-end tests: grpc-js with grpc-js-xds resolves the target by xDS, and calls it.
//
//     GRPC_XDS_BOOTSTRAP=bootstrap.json NODE_PATH=.../node_modules node client.js xds:///echo
//
// Commands and answers are those of client.py.
'use strict';

const readline = require('readline');
const grpc = require('@grpc/grpc-js');

require('@grpc/grpc-js-xds').register();

const DEADLINE_MS = 10000;

const channel = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  // A lost upstream is tried again soon, so that tests of failover need not wait.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.min_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 500,
});

const bytes = (message) => message;

function call(method, headers, id) {
  const metadata = new grpc.Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  const options = { deadline: Date.now() + DEADLINE_MS };
  channel.makeUnaryRequest(method, bytes, bytes, Buffer.alloc(0), metadata, options, (error, message) => {
    const answer = error
      ? { id, ok: false, why: `${grpc.status[error.code]}: ${error.details}` }
      : { id, ok: true, by: message.toString() };
    process.stdout.write(JSON.stringify(answer) + '\n');
  });
}

let timer = null;
readline
  .createInterface({ input: process.stdin })
  .on('line', (line) => {
    const command = JSON.parse(line);
    if (command.every_ms === undefined) {
      call(command.call, command.headers || {}, command.id);
      return;
    }
    clearInterval(timer);
    if (command.every_ms > 0) timer = setInterval(() => call(command.call, {}, null), command.every_ms);
  })
  .on('close', () => process.exit(0));
