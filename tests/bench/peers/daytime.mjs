// A daytime server that writes the line and ends.
import { createServer } from "node:net";

const format = new Intl.DateTimeFormat("en-US", { dateStyle: "full", timeStyle: "long" });

const server = createServer((socket) => {
  socket.on("error", (error) => console.error(error.message));
  socket.resume();
  socket.end(`${format.format()}\r\n`);
});
server.listen(
  0,
  "127.0.0.1",
  () => console.error(`listening on 127.0.0.1:${server.address().port}`),
);
