// The depot: a team that has no workflow server and none of its libraries. Node's own modules are enough for the protocol
// (github.com/nexus-rpc/api, SPEC.md): a start is answered by a token, and the end is told to the caller's callback.
//
//     POST /depot.v1/pack            start: 201 {token, state}; the same Nexus-Request-Id gets the same token
//     POST /depot.v1/pack/cancel     202; what is packed stays packed
//     GET  /parcels                  for the audit: {parcels: {order_id: count}, refused: [order_id], turned_away: count}
import { createServer } from "node:http";

const PACK_MS = 150;
const AWAY_EACH = 5; // every fifth start is first answered by "come again": callers must cope
const RETRY_MS_FIRST = 100, RETRY_MS_MAX = 2000;
const parcels = {}, refused = new Set(), tokens = new Map();
let starts = 0, turnedAway = 0;

const reply = (response, status, body, headers = {}) => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers });
  response.end(body === undefined ? "" : JSON.stringify(body));
};
const handlerError = (response, status, type, message) =>
  reply(response, status, { message, metadata: { type: "nexus.HandlerError" }, details: { type } });

const read = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
};

async function tell(callback, headers, state, body) {
  for (let pause = RETRY_MS_FIRST; ; pause = Math.min(pause * 2, RETRY_MS_MAX)) {
    try {
      const answer = await fetch(callback, {
        method: "POST",
        headers: { "Content-Type": "application/json", ...headers, "Nexus-Operation-State": state },
        body: JSON.stringify(body),
      });
      if (answer.ok || (answer.status < 500 && answer.status !== 408 && answer.status !== 429)) {
        if (!answer.ok) console.error(`callback refused: ${answer.status} ${await answer.text()}`);
        return;
      }
    } catch (error) {
      console.error(`callback not delivered, again soon: ${error.cause?.code ?? error}`);
    }
    await new Promise((done) => setTimeout(done, pause));
  }
}

async function start(request, response, url) {
  const id = request.headers["nexus-request-id"];
  const shipment = JSON.parse(await read(request));
  if (typeof shipment.order_id !== "string") return handlerError(response, 400, "BAD_REQUEST", "a shipment has an order_id");
  if (!tokens.has(id)) {
    if (++starts % AWAY_EACH === 0) {
      turnedAway++;
      return handlerError(response, 503, "UNAVAILABLE", "all packers are busy");
    }
    const token = `parcel-${shipment.order_id}`;
    tokens.set(id, token);
    const headers = { "Nexus-Operation-Token": token };
    for (const [name, value] of Object.entries(request.headers))
      if (name.startsWith("nexus-callback-")) headers[name.slice("nexus-callback-".length)] = value;
    setTimeout(() => pack(shipment, url.searchParams.get("callback"), headers, token), PACK_MS);
  }
  reply(response, 201, { token: tokens.get(id), state: "running" });
}

function pack(shipment, callback, headers, token) {
  if (shipment.address === "nowhere") {
    refused.add(shipment.order_id);
    const message = `no carrier goes to ${shipment.address}`;
    const failure = { message, metadata: { type: "nexus.OperationError" }, details: { state: "failed" } };
    return tell(callback, headers, "failed", failure);
  }
  parcels[shipment.order_id] = (parcels[shipment.order_id] ?? 0) + 1;
  return tell(callback, headers, "succeeded", { parcel: token });
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://depot");
  try {
    if (request.method === "GET" && url.pathname === "/parcels") reply(response, 200, { parcels, refused: [...refused], turned_away: turnedAway });
    else if (request.method === "POST" && url.pathname === "/depot.v1/pack") await start(request, response, url);
    else if (request.method === "POST" && url.pathname === "/depot.v1/pack/cancel") reply(response, 202);
    else handlerError(response, 404, "NOT_FOUND", "the depot has depot.v1/pack");
  } catch (error) {
    handlerError(response, 400, "BAD_REQUEST", "not JSON");
    console.error(error);
  }
});
server.listen(0, "127.0.0.1", () => console.log(`depot ready http://127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
