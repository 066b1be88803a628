"""Many TCP connections at once, each with SIZE bytes both ways and one of the orders of close.

    exchange.py serve ADDRESS PORT                     until EOF on standard input
    exchange.py connect ADDRESS PORT COUNT SIZE        COUNT connections, all open before the first byte is sent

Both print a JSON object: {"orders": {ORDER: connections that went as they should}, "errors": [text]}.
The client sends a line "ORDER SEED SIZE"; bytes are derived from SEED and direction, so that both sides can check them.

    client-first   both directions complete, then the client closes, the server sees EOF and closes
    server-first   the other way round
    client-half    the client sends all and shuts down; the server answers a second after the EOF
    server-half    the other way round
    client-reset   both directions complete and confirmed, the client resets, the server sees ECONNRESET
    server-reset   the other way round
"""

import asyncio
import hashlib
import json
import resource
import socket
import struct
import sys
from collections import Counter

ORDERS = ("client-first", "server-first", "client-half", "server-half", "client-reset", "server-reset")
DONE = b"!"  # "I have all your bytes", before a reset
LIMIT_S = 60


def pattern(seed: int, side: str, size: int) -> bytes:
    return hashlib.shake_128(f"{seed} {side}".encode()).digest(size)


class Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.loop = sock, asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def receive(self, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            part = await self.loop.sock_recv(self.sock, min(missing, 1 << 18))
            if not part:
                raise EOFError(f"end of stream {missing} bytes early")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def expect(self, data: bytes) -> None:
        if await self.receive(len(data)) != data:
            raise ValueError("wrong bytes")

    async def expect_eof(self) -> None:
        extra = await self.loop.sock_recv(self.sock, 1)
        if extra:
            raise ValueError(f"{extra!r} where the stream should have ended")

    async def expect_reset(self) -> None:
        try:
            extra = await self.loop.sock_recv(self.sock, 1)
        except ConnectionResetError:
            return
        raise ValueError(f"{extra!r} where a reset should have come")

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def exchange(c: Connection, me: str, order: str, mine: bytes, theirs: bytes) -> None:
    """One connection after its first line, from either side."""
    starter, way = order.split("-")
    if way == "half" and starter == me:
        await c.send(mine)
        c.sock.shutdown(socket.SHUT_WR)
        await c.expect(theirs)
        await c.expect_eof()
    elif way == "half":
        await c.expect(theirs)
        await c.expect_eof()
        await asyncio.sleep(1)
        await c.send(mine)
    else:
        await asyncio.gather(c.send(mine), c.expect(theirs))
        if way == "first" and starter == me:
            c.sock.shutdown(socket.SHUT_WR)
            await c.expect_eof()
        elif way == "first":
            await c.expect_eof()
        elif starter == me:
            await c.expect(DONE)
            c.reset()
        else:
            await c.send(DONE)
            await c.expect_reset()
    c.sock.close()


class Tally:
    def __init__(self) -> None:
        self.orders: Counter[str] = Counter()
        self.errors: list[str] = []

    async def one(self, c: Connection, me: str, order: str, seed: int, size: int) -> None:
        mine = pattern(seed, me, size)
        theirs = pattern(seed, "server" if me == "client" else "client", size)
        try:
            await asyncio.wait_for(exchange(c, me, order, mine, theirs), LIMIT_S)
            self.orders[order] += 1
        except Exception as error:  # whatever went wrong is the result
            self.errors.append(f"{order} {seed}: {type(error).__name__}: {error}")
            c.sock.close()

    def show(self) -> None:
        print(json.dumps({"orders": self.orders, "errors": self.errors}))


async def serve(address: str, port: int) -> None:
    tally, tasks = Tally(), set()
    loop = asyncio.get_running_loop()
    listener = socket.create_server((address, port), family=family(address), backlog=4096)
    listener.setblocking(False)

    async def one(sock: socket.socket) -> None:
        c, line = Connection(sock), b""
        try:
            while not line.endswith(b"\n"):
                line += await c.receive(1)
        except (OSError, EOFError) as error:
            tally.errors.append(f"before the first line: {error!r}")
            sock.close()
            return
        order, seed, size = line.split()
        await tally.one(c, "server", order.decode(), int(seed), int(size))

    async def accept() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = loop.create_task(one(sock))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    accepting = loop.create_task(accept())
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    accepting.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=LIMIT_S)
    tally.show()


async def connect(address: str, port: int, count: int, size: int) -> None:
    tally, loop = Tally(), asyncio.get_running_loop()

    async def dial() -> Connection:
        sock = socket.socket(family(address), socket.SOCK_STREAM)
        sock.setblocking(False)
        await loop.sock_connect(sock, (address, port))
        return Connection(sock)

    async def one(c: Connection, index: int) -> None:
        order = ORDERS[index % len(ORDERS)]
        await c.send(f"{order} {index} {size}\n".encode())
        await tally.one(c, "client", order, index, size)

    connections = await asyncio.gather(*(dial() for _ in range(count)))
    await asyncio.gather(*(one(c, index) for index, c in enumerate(connections)))
    tally.show()


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what, address, port, *rest = sys.argv[1:]
    asyncio.run(serve(address, int(port)) if what == "serve" else connect(address, int(port), *map(int, rest)))
