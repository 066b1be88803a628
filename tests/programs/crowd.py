"""Echoes whatever comes, over TCP and UDP, however many there are; until EOF on standard input.

    crowd.py ADDRESS PORT       prints "ready", at the end {"tcp": connections, "udp": datagrams}
"""

import asyncio
import json
import resource
import sys


class Echo(asyncio.DatagramProtocol):
    count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        self.count += 1
        self.transport.sendto(data, peer)  # type: ignore[attr-defined]


async def main(address: str, port: int) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # a reset ends it as well
        writer.close()

    loop = asyncio.get_running_loop()
    await asyncio.start_server(serve, address, port, backlog=4096)
    _, udp = await loop.create_datagram_endpoint(Echo, (address, port))
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps({"tcp": connections, "udp": udp.count}), flush=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
