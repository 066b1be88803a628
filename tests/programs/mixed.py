"""Mixed traffic of a guest for SECONDS, at an easy pace, against crowd.py at ADDRESS, ports PORT (everything) and 53 (questions).

    mixed.py ADDRESS SILENT PORT SECONDS        SILENT: an address that never answers

Short connections with up to 200 kB echoed, ended in four ways; questions over UDP, a socket each; media: 50 datagrams a
second each way; peers that are half open: connections to SILENT, and ones that say half a word and then nothing. Prints
{"short": N, "questions": N, "media": [SENT, RETURNED], "half_open": N, "errors": [text]}; a byte that is not what was sent, or an
answer that does not come, is an error (of media, one in a hundred may be missing).
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time

LIMIT_S = 20
SHORT_PER_S, QUESTIONS_PER_S, MEDIA_PER_S = 10, 5, 50
HALF_OPEN, HALF_OPEN_S = 20, 200


class Mixed:
    def __init__(self, address: str, silent: str, port: int, seconds: float) -> None:
        self.address, self.silent, self.port = address, silent, port
        self.end = time.monotonic() + seconds
        self.loop = asyncio.get_running_loop()
        self.rng = random.Random(5)
        self.short = self.questions = self.sent = self.returned = self.half_open = 0
        self.errors: list[str] = []

    def socket(self, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.setblocking(False)
        return sock

    async def one_short(self) -> None:
        data, way = self.rng.randbytes(self.rng.choice((1, 500, 20_000, 200_000))), self.rng.randrange(4)
        with self.socket(socket.SOCK_STREAM) as sock:
            await self.loop.sock_connect(sock, (self.address, self.port))
            sending = self.loop.create_task(self.loop.sock_sendall(sock, data))
            got = b""
            while len(got) < len(data):
                part = await self.loop.sock_recv(sock, 1 << 16)
                if not part:
                    raise ValueError(f"an end after {len(got)} of {len(data)} bytes")
                got += part
            await sending
            if got != data:
                raise ValueError(f"wrong bytes among {len(data)}")
            if way == 0:
                sock.shutdown(socket.SHUT_WR)
                if await self.loop.sock_recv(sock, 1):
                    raise ValueError("bytes after the end")
            elif way == 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif way == 2:
                await self.loop.sock_sendall(sock, data[:1000])  # the answer is not waited for
        self.short += 1

    async def one_question(self) -> None:
        question = self.rng.randbytes(40)
        with self.socket(socket.SOCK_DGRAM) as sock:
            await self.loop.sock_connect(sock, (self.address, 53))
            await self.loop.sock_sendall(sock, question)
            if await self.loop.sock_recv(sock, 100) != question:
                raise ValueError("another answer")
        self.questions += 1

    async def media(self) -> None:
        with self.socket(socket.SOCK_DGRAM) as sock:
            await self.loop.sock_connect(sock, (self.address, self.port))

            async def listen() -> None:
                while True:
                    data = await self.loop.sock_recv(sock, 2000)
                    if data != data[:4] * 300:
                        self.errors.append("media: a wrong datagram")
                    self.returned += 1

            listening = self.loop.create_task(listen())
            while time.monotonic() < self.end:
                await self.loop.sock_sendall(sock, self.sent.to_bytes(4, "big") * 300)
                self.sent += 1
                await asyncio.sleep(1 / MEDIA_PER_S)
            await asyncio.sleep(1)
            listening.cancel()

    async def half_open_peers(self) -> None:
        """Renewed together, long after their flows have ended."""
        while time.monotonic() < self.end:
            with contextlib.ExitStack() as stack:
                for number in range(HALF_OPEN):
                    sock = stack.enter_context(self.socket(socket.SOCK_STREAM))
                    where = (self.address if number % 2 else self.silent, self.port)
                    with contextlib.suppress(BlockingIOError):
                        sock.connect(where)
                    if number % 2:
                        await asyncio.sleep(0.1)
                        sock.send(b"half a w")
                    self.half_open += 1
                await asyncio.sleep(min(HALF_OPEN_S, max(0, self.end - time.monotonic())))

    async def repeat(self, what: str, per_s: float) -> None:
        async def one() -> None:
            try:
                await asyncio.wait_for(getattr(self, what)(), LIMIT_S)
            except (OSError, ValueError, TimeoutError) as error:
                self.errors.append(f"{what}: {type(error).__name__}: {error}")

        tasks = set()
        while time.monotonic() < self.end:
            task = self.loop.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / per_s)
        if tasks:
            await asyncio.wait(tasks)

    async def run(self) -> None:
        small = (self.repeat("one_short", SHORT_PER_S), self.repeat("one_question", QUESTIONS_PER_S))
        await asyncio.gather(*small, self.media(), self.half_open_peers())
        if self.returned < 0.99 * self.sent:
            self.errors.append(f"media: {self.returned} of {self.sent} returned")
        print(json.dumps({"short": self.short, "questions": self.questions, "media": [self.sent, self.returned],
                          "half_open": self.half_open, "errors": self.errors}))  # fmt: skip


async def main() -> None:
    await Mixed(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])).run()


asyncio.run(main())
