// graphql-ws, as its own guide sets it up. node graphql_server.mjs PORT FOLDER_OF_NODE_MODULES
// GET /publish/N publishes a price, /ping has every client pinged, /end ends all subscriptions;
// each answers with the number of subscriptions there are.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, home] = process.argv.slice(2);
const require = createRequire(`${home}/`);
const { buildSchema } = require("graphql");
const { useServer } = require("graphql-ws/use/ws");
const { WebSocketServer } = require("ws");

const schema = buildSchema(`
  type Query { symbols: [String!] }
  type Subscription { price(symbol: String!): Int }
`);
const subscriptions = new Set();

class Prices {
  waiting = [];
  wake = () => {};
  constructor() {
    subscriptions.add(this);
  }
  put(value) {
    this.waiting.push(value);
    this.wake();
  }
  async next() {
    while (!this.waiting.length) await new Promise((wake) => (this.wake = wake));
    const price = this.waiting.shift();
    return price === null ? this.return() : { done: false, value: { price } };
  }
  async return() {
    subscriptions.delete(this);
    this.put(null);
    return { done: true, value: undefined };
  }
  [Symbol.asyncIterator]() {
    return this;
  }
}

const roots = {
  subscription: {
    price({ symbol }) {
      console.log(`subscribed to ${symbol}`);
      return new Prices();
    },
  },
};

const http = createServer((request, response) => {
  const [, what, value] = request.url.split("/");
  if (what === "publish") subscriptions.forEach((each) => each.put(Number(value)));
  if (what === "end") subscriptions.forEach((each) => each.put(null));
  if (what === "ping") sockets.clients.forEach((each) => each.send('{"type":"ping"}'));
  response.end(JSON.stringify(subscriptions.size));
});
const sockets = new WebSocketServer({ server: http, path: "/graphql" });
sockets.on("connection", (socket) => {
  socket.on("message", (data) => {
    if (JSON.parse(data).type === "pong") console.log("pong");
  });
});
useServer(
  {
    schema,
    roots,
    onConnect({ connectionParams }) {
      console.log(`login ${connectionParams?.token}`);
      return connectionParams?.token === "TOKEN"; // false: closed with 4403
    },
    onDisconnect: () => console.log("gone"),
  },
  sockets,
);
http.listen(Number(port), "127.0.0.1", () => console.log("listening"));

process.stdin.resume();
process.stdin.on("end", () => process.exit());
