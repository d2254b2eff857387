"""Thanks everyone who connects, and hangs up. The tutorial binds every address, a test loopback."""
import socket
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(5)
while True:
    peer, address = listener.accept()
    print("Got connection from", address)
    peer.send(b"Thank you for connecting")
    peer.close()
