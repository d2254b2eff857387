"""SSH by paramiko: a client that does what the headers of our scripts name, and a server with a password."""

import socket
import sys
import threading

import paramiko


def client(port, known_hosts, key, remote, local):
    ssh = paramiko.SSHClient()
    ssh.load_host_keys(known_hosts)
    ssh.set_missing_host_key_policy(paramiko.RejectPolicy())
    ssh.connect("127.0.0.1", port, username="ann", key_filename=key, look_for_keys=False, allow_agent=False)
    stdin, stdout, stderr = ssh.exec_command("nope")
    print(repr(stdout.read()), repr(stderr.read()), stdout.channel.recv_exit_status())
    sftp = ssh.open_sftp()
    print(sorted(sftp.listdir("/")), sftp.normalize("x/.."), oct(sftp.stat(remote).st_mode))
    sftp.get(remote, local)
    for attempt in (lambda: sftp.put(local, "new"), lambda: sftp.remove(remote)):
        try:
            attempt()
        except IOError as error:
            print(error)
    shell = ssh.invoke_shell("vt100", 90, 20)
    shell.send("size\r")
    heard = b""
    while b"vt100" not in heard:
        heard += shell.recv(1000)
    shell.resize_pty(100, 30)
    shell.send("size\rquit\r")
    while piece := shell.recv(1000):
        heard += piece
    print(repr(heard), shell.recv_exit_status())
    ssh.close()


class Server(paramiko.ServerInterface):
    def get_allowed_auths(self, username):
        return "publickey,password"

    def check_auth_password(self, username, password):
        good = (username, password) == ("ann", "sécret")
        return paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        def answer():
            channel.sendall(command + b"\n")
            channel.send_exit_status(3)
            channel.close()

        threading.Timer(0.1, answer).start()  # after the reply to this request
        return True


def server(key):
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        conn, _ = listener.accept()
        transport = paramiko.Transport(conn)
        transport.add_server_key(paramiko.Ed25519Key(filename=key))
        transport.start_server(server=Server())


if sys.argv[1] == "server":
    server(sys.argv[2])
else:
    client(int(sys.argv[2]), *sys.argv[3:])
