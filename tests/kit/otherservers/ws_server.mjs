// See __init__.py. node ws_server.mjs PORT PATH_OF_WS [PING_SECONDS]
import { createRequire } from "node:module";

const [port, home, ping] = process.argv.slice(2);
const { WebSocketServer } = createRequire(import.meta.url)(home);

const orders = {
  close: (socket, { code, reason }) => socket.close(code, reason),
  drop: (socket) => socket._socket.resetAndDestroy(),
  send: (socket, { size }) => socket.send("x".repeat(size)),
  fragments(socket, { of }) {
    of.forEach((part, n) => {
      socket.send(part, { fin: n === of.length - 1, compress: false });
      if (n === 0) socket.ping("amid");
    });
  },
};

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  perMessageDeflate: { threshold: 0 },
  maxPayload: 2 ** 21,
});
server.on("listening", () => console.log(`listening ${server.address().port}`));
server.on("connection", (socket) => {
  let alive = true;
  socket.on("pong", () => (alive = true));
  socket.on("error", () => {});
  socket.on("close", (code) => console.log(`closed ${code}`));
  socket.on("message", (data, isBinary) => {
    const order = isBinary ? {} : parsed(data);
    if (order.do in orders) orders[order.do](socket, order);
    else socket.send(data, { binary: isBinary });
  });
  if (ping) {
    // As its documentation has it: who has not answered the last ping is cut off.
    const timer = setInterval(() => {
      if (!alive) return socket.terminate();
      alive = false;
      socket.ping();
    }, ping * 1000);
    socket.on("close", () => clearInterval(timer));
  }
});

function parsed(data) {
  try {
    return Object(JSON.parse(data));
  } catch {
    return {};
  }
}

process.stdin.resume();
process.stdin.on("end", () => process.exit());
