// A server that waits for a greeting, sends the file it is told, and ends.
import { createReadStream } from "node:fs";
import { createServer } from "node:net";
import { argv } from "node:process";
import { pipeline } from "node:stream";

const server = createServer((socket) => {
  socket.once("data", () => {
    pipeline(createReadStream(argv[2]), socket, (error) => {
      if (error) console.error(error.message);
    });
  });
});
server.listen(
  0,
  "127.0.0.1",
  () => console.error(`listening on 127.0.0.1:${server.address().port}`),
);
