// A server that sends back what it reads: the least that a conversation takes.
import { createServer } from "node:net";

const server = createServer({ noDelay: true }, (socket) => {
  socket.on("error", (error) => console.error(error.message));
  socket.on("data", (data) => socket.write(data));
});
server.listen(
  0,
  "127.0.0.1",
  () => console.error(`listening on 127.0.0.1:${server.address().port}`),
);
