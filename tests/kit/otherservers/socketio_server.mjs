// socket.io, which pings every 200 ms. node socketio_server.mjs PORT FOLDER_OF_NODE_MODULES
// GET /publish/N emits a price to the room "news", /ask has every client acknowledge an event;
// each answers with the number of clients in the room.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [port, home] = process.argv.slice(2);
const { Server } = createRequire(`${home}/`)("socket.io");

const http = createServer((request, response) => {
  const [, what, value] = request.url.split("/");
  if (what === "publish") io.to("news").emit("price", Number(value));
  if (what === "ask")
    io.timeout(5000).emit("question", (late) => console.log(late ? "late" : "acknowledged"));
  response.end(JSON.stringify(io.sockets.adapter.rooms.get("news")?.size ?? 0));
});
const io = new Server(http, { pingInterval: 200, pingTimeout: 5000 });
io.use((socket, next) => {
  console.log(`login ${socket.handshake.auth.token}`);
  next(socket.handshake.auth.token === "TOKEN" ? undefined : new Error("not authorized"));
});
io.on("connection", (socket) => {
  socket.on("join", (room) => {
    console.log(`join ${room}`);
    socket.join(room);
  });
  socket.on("double", (number, answer) => answer(2 * number));
  socket.conn.on("packet", ({ type }) => type === "pong" && console.log("pong"));
});
http.listen(Number(port), "127.0.0.1", () => console.log("listening"));

process.stdin.resume();
process.stdin.on("end", () => process.exit());
