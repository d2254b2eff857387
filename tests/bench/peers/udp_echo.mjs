// A UDP server that sends every datagram back.
import { createSocket } from "node:dgram";

const socket = createSocket("udp4");
socket.on("message", (data, from) => socket.send(data, from.port, from.address));
socket.bind(0, "127.0.0.1", () => console.error(`listening on 127.0.0.1:${socket.address().port}`));
