"""The peers of rpc_server and rpc_client: xmlrpc.client and xmlrpc.server.

    python3 -u rpc.py client URL   calls the server there, prints what came otherwise than expected,
                                   then how much it has tried
    python3 -u rpc.py server       serves methods, says where it is listening
    python3 -u rpc.py values       prints the values of every type, in JSON
"""
import base64
import datetime
import json
import math
import sys
import xmlrpc.client
import xmlrpc.server

DAY = datetime.datetime(1998, 7, 17, 14, 8, 55)
VALUES = [
    0, 1, -1, 2**31 - 1, -(2**31), True, False, None,
    0.5, -0.25, -0.0, 1e-7, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1e300, 0.1,
    1 / 3, 2.0**31, -(2.0**31) - 1, 2.0**53, 1e21, 123456789012345.67,
    "", " ", "  \t\n ", "text", " around ", "line\nline\n", "Grüße, 世界 😀", "\u0085\u2028\ufffd",
    "<b>&amp;</b>", "]]>", "&lt;&#65;&#x41;", "'\"", "<!DOCTYPE x>", "<![CDATA[x]]>", "-0", "0x10",
    "007", "true", "null", "x" * 100_000, "&" * 50_000,
    DAY, datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59),
    datetime.datetime(2024, 2, 29),
    b"", b"\0", b"abc", bytes(range(256)) * 100,
    [], [[]], [None], [1, "two", 3.5, [True, [b"four"]], {}], [[] for _ in range(1000)],
    {}, {"": ""}, {"a": {"b": [{"c": None}]}}, {"<&>": " "}, {"ü": DAY}, {str(n): n for n in range(999)},
    {"__proto__": {"polluted": True}, "constructor": 1, "toString": "x", "hasOwnProperty": None},
]  # fmt: skip


def same(a, b):
    if isinstance(a, float) and a == b and isinstance(b, int):
        return a.is_integer() and abs(a) <= 2**31 and math.copysign(1, a) == math.copysign(1, b or 1)
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return repr(a) == repr(b)


def client(url):
    proxy = xmlrpc.client.ServerProxy(url, allow_none=True, use_builtin_types=True)
    tried = 0

    def expect(what, got, wanted):
        nonlocal tried
        tried += 1
        if not same(wanted, got):
            print(f"{what}: {got!r:.200} instead of {wanted!r:.200}")

    def expect_fault(code, text, method, *params):
        try:
            expect(f"{method}{params}", getattr(proxy, method)(*params), "a fault")
        except xmlrpc.client.Fault as fault:
            expect(f"{method}{params}", fault.faultCode, code)
            expect(f"{method}{params} says {fault.faultString}", text in fault.faultString, True)

    for value in VALUES:
        expect("echo", proxy.echo(value), value)
    expect("echo of all", proxy.echo(VALUES), VALUES)
    # Python writes a CR as it is, and XML has it read as LF.
    expect("echo of CR", proxy.echo("a\rb\r\nc"), "a\nb\nc")
    for number in (2**31, -(2**31) - 1):
        try:
            expect("too large", proxy.echo(number), "an OverflowError")
        except OverflowError:
            tried += 1

    expect("add", proxy.add(2, 3), 5)
    expect("add", proxy.add(2, 0.5), 2.5)
    expect("add past 32 bits", proxy.add(2**31 - 1, 1), 2.0**31)
    expect("subtract", proxy.subtract(42, 23), 19)
    expect("quadratic", proxy.quadratic(2, -4, 0), [0, 2])
    expect("quadratic", proxy.quadratic(1.0, 2, 1), [-1])
    expect_fault(-32500, "no real roots", "quadratic", 1, 0, 1)
    expect_fault(-32500, "a is 0", "quadratic", 0, 1, 1)
    expect_fault(-32500, "too large", "add", 1e308, 1e308)
    expect_fault(-32601, "Method not found", "nope")
    for name in ("constructor", "__proto__", "toString", "hasOwnProperty", "valueOf", "Add", "system"):
        expect_fault(-32601, "Method not found", name)
    for params in ((), (1,), (1, 2, 3), (1, "2"), (None, 1), ([1, 2],), ({"a": 1, "b": 2},)):
        expect_fault(-32602, "add(a: double, b: double): double", "add", *params)
    expect_fault(-32600, "not of its type", "echo", math.nan)
    expect_fault(-32600, "not of its type", "echo", math.inf)

    names = proxy.system.listMethods()
    expect("listMethods", {"add", "subtract", "echo", "quadratic"} < set(names), True)
    for name in names:
        expect(f"help of {name}", proxy.system.methodHelp(name).startswith(f"{name}("), True)
        for types in proxy.system.methodSignature(name):
            expect(f"signature of {name}", all(isinstance(kind, str) for kind in types), True)
    expect("signature", proxy.system.methodSignature("add"), [["double", "double", "double"]])
    expect_fault(-32601, "Method not found", "system.methodHelp", "toString")
    expect_fault(-32601, "Method not found", "system.methodSignature", "__proto__")

    calls = xmlrpc.client.MultiCall(proxy)
    calls.add(1, 2)
    calls.echo("x")
    calls.nope()
    calls.system.multicall([])
    calls.quadratic(1, 0, 1)
    calls.echo(None)
    results = calls()
    for n, wanted in enumerate([3, "x", -32601, -32602, -32500, None]):
        try:
            expect(f"call {n}", results[n], wanted)
        except xmlrpc.client.Fault as fault:
            expect(f"call {n}", fault.faultCode, wanted)
    expect("no calls", proxy.system.multicall([]), [])

    proxy = xmlrpc.client.ServerProxy(url, encoding="iso-8859-1")
    expect("plain", proxy.echo("plain"), "plain")
    expect_fault(-32700, "Parse error", "echo", "ü")
    print("tried", tried)


def received(value):
    """Tells what came: its type and itself, as Python has it."""
    return f"{type(value).__name__} {ascii(value)}"


def fail(kind):
    if kind == "fault":
        raise xmlrpc.client.Fault(42, "of\nits own \x1b[31m")
    raise ValueError("a mistake")


def values():
    """Prints them as rpc_client should."""
    plain = lambda v: base64.b64encode(v).decode() if isinstance(v, bytes) else v.isoformat()
    print(json.dumps(VALUES, default=plain))


def server():
    options = {"allow_none": True, "use_builtin_types": True, "logRequests": False}
    with xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), **options) as listening:
        for function in (received, fail, pow):
            listening.register_function(function)
        listening.register_function(lambda given: given, "echo")
        listening.register_function(lambda: VALUES, "values")
        listening.register_introspection_functions()
        listening.register_multicall_functions()
        print("listening on 127.0.0.1:%d" % listening.server_address[1], file=sys.stderr)
        listening.serve_forever()


command, *args = sys.argv[1:]
globals()[command](*args)
