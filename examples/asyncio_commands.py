"""Several commands in one network, at the same time, with asyncio."""

import asyncio
import subprocess

import pasta_py


async def output(net: pasta_py.Network, *words: str) -> str:
    """What a command in the network prints."""
    process = await asyncio.create_subprocess_exec(*net.command(words), stdout=subprocess.PIPE)
    printed, _ = await process.communicate()
    return printed.decode()


async def main() -> None:
    async with await asyncio.to_thread(pasta_py.Network, mtu=1500) as net:
        user, links = await asyncio.gather(output(net, "id", "-u"), output(net, "cat", "/proc/net/dev"))
    interfaces = [line.partition(":")[0].strip() for line in links.splitlines()[2:]]
    print(f"user {user.strip()} there, {len(interfaces)} interfaces: lo and one more")


if __name__ == "__main__":
    asyncio.run(main())
