"""Commands in a network of their own: `run` and `Popen`, after those of `subprocess`."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from errno import ENOENT
from typing import Any

from pasta_py.control.api.arguments import Port, Published, Value, network_words, option_words
from pasta_py.control.api.program import Start, command_words

Words = Sequence[str | os.PathLike[str]]


class Popen(subprocess.Popen[Any]):
    """A command in a network of its own; a subprocess.Popen. It is made once the network works and the command has begun.

    args, network, ports and options: as of `run`. stdin, stdout, stderr, cwd, env, text, encoding, errors, bufsize, umask,
    start_new_session and process_group: as of subprocess.Popen. `ports`: the published ports.

    The process is the translator in front of the command: it passes on the command's exit status (128 + n for death by signal n)
    and ends with it. `terminate()` ends both, with status 0.
    """

    def __init__(
        self,
        args: Words,
        *,
        network: str = "pasta",
        ports: Sequence[str] = (),
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        text: bool | None = None,
        encoding: str | None = None,
        errors: str | None = None,
        bufsize: int = -1,
        umask: int = -1,
        start_new_session: bool = False,
        process_group: int | None = None,
        **options: Value,
    ) -> None:
        words = command_words(args)
        options_words = [*network_words(network), *option_words(options)]
        find(words[0], env)
        published = Published(ports)
        self.ports: tuple[Port, ...] = published.ports
        try:
            with Start(published) as start:
                super().__init__(
                    [*start.command("pasta-py"), *options_words, *default_ports(published, options), "--", *words],
                    pass_fds=start.descriptors, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd, env=env, text=text,
                    encoding=encoding, errors=errors, bufsize=bufsize, umask=umask, start_new_session=start_new_session,
                    process_group=process_group,
                )  # fmt: skip
                self.args = args  # the caller's own, for its repr and errors, as of subprocess.Popen
                try:
                    start.wait()
                except BaseException:
                    self._discard()
                    raise
        finally:
            published.close()

    def _discard(self) -> None:
        """The start failed."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
        self.kill()
        self.wait()


def run(
    args: Words,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **keywords: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Run a command in a network of its own, and wait for it: subprocess.run, and keyword arguments for the network.

    network   options as in podman's --network: "pasta:--map-gw,--mtu,1500".
    ports     published ports as podman's -p takes them: [ADDRESS:]PORT[-PORT][:PORT[-PORT]][/tcp|/udp]. A host's PORT of 0 is any
              free one. No others are forwarded, either way, unless an option says so.
    options   by their long names: mtu=1500, map_gw=False, pcap="out.pcap", dns=["192.0.2.53"]. See `pasta-py --help`.
    others    as those of Popen.

    FileNotFoundError when there is no such program; UsageError for arguments, HostError for what the host refuses, WorkerError when
    the translator dies. subprocess.TimeoutExpired and CalledProcessError as from subprocess.run.
    """
    return finish(Popen, args, input, capture_output, timeout, check, keywords)


def finish(
    start: Any, args: Words, input: Any, capture_output: bool, timeout: float | None, check: bool, keywords: dict[str, Any]
) -> "subprocess.CompletedProcess[Any]":
    """What subprocess.run does, with a process that `start` makes."""
    if input is not None:
        keywords["stdin"] = subprocess.PIPE
    if capture_output:
        keywords["stdout"] = keywords["stderr"] = subprocess.PIPE
    with start(args, **keywords) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired as expired:
            process.kill()
            process.wait()
            raise subprocess.TimeoutExpired(list(args), expired.timeout, output=expired.output, stderr=expired.stderr) from None
        except BaseException:
            process.kill()
            raise
        status = process.wait()
    done: subprocess.CompletedProcess[Any] = subprocess.CompletedProcess(list(args), status, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def find(program: str, env: "Mapping[str, str] | None") -> None:
    """FileNotFoundError, as from subprocess, for a program that there is not."""
    path = None if env is None else env.get("PATH", os.defpath)
    if not (os.path.exists(program) if "/" in program else shutil.which(program, path=path)):
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), program)


def default_ports(published: Published, options: Mapping[str, Value]) -> list[str]:
    """Words for published ports; what nothing asks for is not forwarded."""
    words = list(published.words)
    for flag, name in (("-t", "tcp_ports"), ("-u", "udp_ports"), ("-T", "tcp_ns"), ("-U", "udp_ns")):
        if flag not in words and options.get(name) is None:
            words += [flag, "none"]
    return words
