"""Python's poplib at a POP3 server: says what comes of every command, all but free text."""

import poplib
import ssl
import sys

PORT, USER, PASSWORD = int(sys.argv[1]), sys.argv[2], sys.argv[3]


def enter(how="apop"):
    if len(sys.argv) > 4:  # a root certificate
        context = ssl.create_default_context(cafile=sys.argv[4])
        pop = poplib.POP3_SSL("127.0.0.1", PORT, context=context, timeout=10)
    else:
        pop = poplib.POP3("127.0.0.1", PORT, timeout=10)
    assert pop.getwelcome().startswith(b"+OK")
    if how == "apop":
        pop.apop(USER, PASSWORD)
    else:
        pop.user(USER)
        pop.pass_(PASSWORD)
    return pop


def tell(what, call, *args):
    try:
        answer = call(*args)
    except poplib.error_proto as error:
        assert error.args[0].startswith(b"-ERR"), error
        answer = "refused"
    if isinstance(answer, bytes):
        assert answer.startswith(b"+OK"), answer
        answer = answer if what == "list 1" else "ok"
    if isinstance(answer, tuple) and isinstance(answer[0], bytes):
        answer = answer[1:]
    print(what, answer)


pop = enter("user")
assert {"TOP", "UIDL", "PIPELINING", "RESP-CODES"} <= set(pop.capa())
tell("stat", pop.stat)
tell("list", pop.list)
count, size = pop.stat()
assert sum(int(line.split()[1]) for line in pop.list()[1]) == size
ids = [line.split()[1] for line in pop.uidl()[1]]
assert len(set(ids)) == count and pop.uidl(2).split()[2] == ids[1]
for n in range(1, count + 1):
    answer = pop.retr(n)
    assert answer[2] == int(pop.list(n).split()[2]), (answer[2], pop.list(n))
    print("retr", n, answer[1:])
    for lines in (0, 1, 3, 1000):
        tell(f"top {n} {lines}", pop.top, n, lines)
tell("noop", pop.noop)
for n in (0, count + 1, 99999999999999999999):
    for command in (pop.list, pop.uidl, pop.retr, pop.dele):
        tell(f"{command.__name__} {n}", command, n)
tell("dele 1", pop.dele, 1)
for command in (pop.list, pop.uidl, pop.retr, pop.dele):
    tell(f"{command.__name__} 1", command, 1)
tell("stat", pop.stat)
tell("list", pop.list)
tell("rset", pop.rset)
tell("stat", pop.stat)
tell("dele 2", pop.dele, 2)
pop.close()  # without QUIT

pop = enter()
assert [line.split()[1] for line in pop.uidl()[1]] == ids
tell("dele 1", pop.dele, 1)
tell("quit", pop.quit)

pop = enter()
assert [line.split()[1] for line in pop.uidl()[1]] == ids[1:]
tell("list", pop.list)
tell("quit", pop.quit)
for name, password in ((USER, "x"), ("x", PASSWORD)):
    pop = poplib.POP3("127.0.0.1", PORT, timeout=10) if len(sys.argv) < 5 else None
    if pop:
        tell("user", pop.user, name)
        tell("pass", pop.pass_, password)
        pop.close()
