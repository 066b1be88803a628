"""`make test-clients`: programs of several languages and validating resolvers under an egress policy.

Go with its own resolver and with libc's, Node.js, c-ares, Java, .NET; on the host's side unbound, which validates, and behind it
named with a signed zone that has a DNAME; in the guest delv, which validates again. tests/clients/fetch.sh and the Makefile fetch
what a machine lacks.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_egress_scenarios as scenarios
from lab import FAR4, FAR6, NO_PORTS, Lab, routed
from servers import nginx
from test_egress_scenarios import OURS, allow, fetched, refused, status

ROOT = Path(__file__).resolve().parents[2]
FETCHED = Path(os.environ.get("PASTA_CLIENTS") or ROOT / "build/clients")
DOTNET = Path(os.environ.get("PASTA_DOTNET") or ROOT / "build/clients-dotnet") / "dotnetcore2/bin"
LIBRARIES = ":".join(str(FETCHED / "usr/lib" / each) for each in ("x86_64-linux-gnu", "aarch64-linux-gnu", "."))
lab = scenarios.lab

GO = """
package main
import ("fmt"; "net"; "os")
func main() {
    c, err := net.Dial("tcp", os.Args[1])
    if err != nil { fmt.Println("error", err); return }
    fmt.Println("connected", c.RemoteAddr())
}
"""
NODE = """
require('net').connect({host: process.argv[1].split(':')[0], port: 80, autoSelectFamily: true}, function () {
    console.log('connected', this.remoteAddress); process.exit()
}).on('error', (e) => { console.log('error', e.code, (e.errors || []).map((each) => each.code)); process.exit() })
"""
JAVA = """
public class Client {
    public static void main(String[] words) throws Exception {
        try (var s = new java.net.Socket(words[0].split(":")[0], 80)) {
            System.out.println("connected " + s.getInetAddress().getHostAddress());
        } catch (Exception e) { System.out.println("error " + e); }
    }
}
"""
CSHARP = """
using System;
using System.Net;
using System.Net.Sockets;
public static class Client {
    public static void Main(string[] words) {
        try {
            using (var client = new TcpClient(words[0].Split(':')[0], 80)) {
                var address = ((IPEndPoint) client.Client.RemoteEndPoint).Address;
                Console.WriteLine("connected " + (address.IsIPv4MappedToIPv6 ? address.MapToIPv4() : address));
            }
        } catch (SocketException e) { Console.WriteLine("error " + e.SocketErrorCode); }
    }
}
"""
MUSL = """
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>
int main(int argc, char **argv)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int rc = getaddrinfo(argv[argc - 1], "80", &hints, &found), count = 0;
    if (rc) return puts(gai_strerror(rc)), 1;
    for (struct addrinfo *each = found; each; each = each->ai_next) count++;
    int fd = socket(found->ai_family, SOCK_STREAM, 0);
    printf("%d %s\\n", count, connect(fd, found->ai_addr, found->ai_addrlen) ? "not reached" : "reached");
}
"""
#: By c-ares, which asks the nameserver itself: its word for what it gets, or the answer.
C_ARES = """
const dns = require('dns').promises;
(async () => {
    for (const [ask, name] of JSON.parse(process.argv[1])) {
        try { console.log(JSON.stringify(await dns[ask](name))); } catch (e) { console.log(e.code); }
    }
})();
"""
#: What each says of a name that there is not.
NO_SUCH_NAME = {
    "go": "no such host", "go with libc": "no such host", "node": "ENOTFOUND", "java": "UnknownHostException",
    ".net": "HostNotFound",
}  # fmt: skip


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, ...]]:
    """The command of each, which takes NAME:80."""
    where = tmp_path_factory.mktemp("clients")
    where.chmod(0o755)
    where.parent.chmod(0o755)
    (where / "client.go").write_text(GO)
    (where / "Client.java").write_text(JAVA)
    go = next(iter(FETCHED.glob("usr/lib/go-*/bin/go")), Path("go"))
    environment = {**os.environ, "GOCACHE": str(FETCHED / "go-cache"), "GO111MODULE": "off", "HOME": str(where)}
    if go.is_absolute():
        environment["GOROOT"] = str(go.parents[1])
    for name, cgo in (("go", "0"), ("go with libc", "1")):
        command = [go, "build", "-o", where / name, where / "client.go"]
        subprocess.run(command, env={**environment, "CGO_ENABLED": cgo}, check=True, timeout=600)
    subprocess.run(["javac", "-d", where, where / "Client.java"], check=True, timeout=120)
    return {
        "go": (where / "go",),
        "go with libc": ("env", "GODEBUG=netdns=cgo", where / "go with libc"),
        "node": ("node", "-e", NODE),
        "java": ("java", "-cp", where, "Client"),
        ".net": dotnet(where),
    }


def dotnet(where: Path) -> tuple[object, ...]:
    """Compile with Mono's compiler for the .NET of PyPI, which is a runtime alone; the command."""
    (framework,) = DOTNET.glob("shared/Microsoft.NETCore.App/*")
    (where / "client.cs").write_text(CSHARP)
    options = {
        "framework": {"name": framework.parent.name, "version": framework.name},
        "configProperties": {"System.Globalization.Invariant": True},  # else it wants ICU
    }
    (where / "client.runtimeconfig.json").write_text(json.dumps({"runtimeOptions": options}))
    mono = FETCHED / "usr/lib/mono/4.5"
    kinds = ("System.*.dll", "Microsoft.Win32.Primitives.dll", "mscorlib.dll")
    references = [f"-r:{each}" for kind in kinds for each in framework.glob(kind)]
    compiler = (FETCHED / "usr/bin/mono-sgen", mono / "mcs.exe", "-nostdlib", "-noconfig")
    environment = {**os.environ, "MONO_CFG_DIR": str(FETCHED / "etc"), "MONO_PATH": str(mono)}
    command = (*compiler, *references, f"-out:{where / 'client.dll'}", where / "client.cs")
    subprocess.run(command, env=environment, check=True, timeout=120)
    (DOTNET / "dotnet").chmod(0o755)  # the wheel has it without
    return ("env", "DOTNET_CLI_TELEMETRY_OPTOUT=1", DOTNET / "dotnet", where / "client.dll")


@pytest.mark.parametrize("kind", list(NO_SUCH_NAME))
def test_each_reaches_an_allowed_name_and_hears_at_once_of_a_denied_one(
    lab: Lab, clients: dict[str, tuple[object, ...]], kind: str
) -> None:
    """One query of each type for the denied name: none tries again."""
    path = lab.directory / f"{kind}.json"
    with lab.guest(*allow("api.test:80"), "--decision-log", path) as guest:
        assert guest.run(*clients[kind], "api.test:80").stdout.startswith("connected ")
        assert NO_SUCH_NAME[kind] in guest.run(*clients[kind], "files.test:80").stdout
    found = [json.loads(line) for line in path.read_text().splitlines()]
    denied = [each for each in found if each.get("name") == "files.test"]
    assert {each["verdict"] for each in denied} == {"denied"}
    assert sum(each["count"] for each in denied) <= 2, denied


@pytest.mark.parametrize("kind", list(NO_SUCH_NAME))
def test_each_goes_by_ipv4_where_ipv6_is_denied(lab: Lab, clients: dict[str, tuple[object, ...]], kind: str) -> None:
    with lab.guest(*NO_PORTS, "--deny", "[::/0]", "--allow", "api.test:80") as guest:
        assert guest.run(*clients[kind], "api.test:80").stdout == f"connected {FAR4}{':80' if kind.startswith('go') else ''}\n"


def test_c_ares_gets_what_there_is_and_no_missing_name_for_a_missing_type(lab: Lab) -> None:
    """The long answer comes over TCP. Of a denied name and of a type without data it hears at once."""
    asked = {
        ("resolve4", "api.test"): [FAR4], ("resolve6", "api.test"): [FAR6], ("resolveTxt", "api.test"): [["hello"]],
        ("resolve4", "v4only.test"): [FAR4], ("resolve6", "v4only.test"): "ENODATA", ("resolve4", "files.test"): "ENOTFOUND",
        ("resolveAny", "api.test"): "ENODATA", ("resolveCname", "shop.test"): ["e1.cdn.test"],
        ("resolveSrv", "_http._tcp.mirror.test"): [{"name": "m1.cdn.test", "port": 80, "priority": 1, "weight": 1}],
    }  # fmt: skip
    with lab.guest(*allow("api.test:80", "v4only.test:80", "shop.test:80", "mirror.test:80", "many.test:80")) as guest:
        lines = guest.run("node", "-e", C_ARES, json.dumps([*asked, ("resolve4", "many.test")])).stdout.splitlines()
    found = [json.loads(line) if line[0] in "[{" else line for line in lines]
    assert dict(zip(asked, found)) == asked and len(found[-1]) == 300


def test_musl_takes_no_type_that_is_missing_for_a_missing_name(lab: Lab) -> None:
    """Of 300 addresses it gets those that are in a datagram: musl before 1.2.4 does not ask over TCP."""
    (libc,) = FETCHED.glob("usr/lib/*-linux-musl/libc.a")
    (headers,) = FETCHED.glob("usr/include/*-linux-musl")
    program, code = lab.directory / "musl", lab.directory / "musl.c"
    code.write_text(MUSL)
    first, last = [libc.with_name(name) for name in ("crt1.o", "crti.o")], libc.with_name("crtn.o")
    words = ("gcc", "-static", "-nostdlib", "-nostartfiles", "-nostdinc", "-isystem", headers, "-o", program)
    subprocess.run([*words, *first, code, libc, "-lgcc", "-lgcc_eh", libc, last], check=True, timeout=60)
    with lab.guest(*allow("v4only.test:80", "api.test:80", "many.test:80")) as guest:
        assert guest.run(program, "v4only.test").stdout == "1 reached\n"
        assert guest.run(program, "api.test").stdout == "2 reached\n"
        assert 1 < int(guest.run(program, "many.test").stdout.split()[0]) < 300
        assert guest.run(program, "files.test", check=False).stdout == "Name does not resolve\n"


# ---- a validating chain ----

ZONE = f"""\
$TTL 300
@ SOA ns hostmaster 1 3600 600 86400 300
  NS ns
ns A {FAR4}
www A {FAR4}
www AAAA {FAR6}
old DNAME new
deep.new A {FAR4}
"""
NAMED = """\
options {{ directory "{where}"; listen-on {{ {address}; }}; listen-on-v6 {{ none; }}; pid-file none; recursion no; }};
controls {{ }};
zone "signed.test" {{ type primary; file "zone.signed"; }};
"""
UNBOUND = """\
server:
  interface: 127.0.0.53
  username: ""
  chroot: ""
  directory: "{where}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "validator iterator"
  trust-anchor-file: "{where}/anchor"
  domain-insecure: "test"
  local-zone: "test." nodefault
stub-zone:
  name: "signed.test"
  stub-addr: {address}
remote-control:
  control-enable: no
"""


def tool(name: str) -> Path:
    return next(path for place in ("usr/sbin", "usr/bin") if (path := FETCHED / place / name).exists())


@pytest.fixture(scope="module")
def signed() -> Iterator[Lab]:
    with Lab(routed) as made:
        where = made.directory
        made.host.sysctl(ipv4__ip_unprivileged_port_start=0)
        made.remote.sysctl(ipv4__ip_unprivileged_port_start=0)
        nginx(made)
        made.remote.run("sh", "-c", "echo it works >/run/big/www/index.html")
        (where / "zone").write_text(ZONE)
        (where / "named.conf").write_text(NAMED.format(where=where, address=FAR4))
        (where / "unbound.conf").write_text(UNBOUND.format(where=where, address=FAR4))
        libraries = ("env", f"LD_LIBRARY_PATH={LIBRARIES}")
        for flags in ((), ("-f", "KSK")):
            made.host.run(*libraries, tool("dnssec-keygen"), "-q", "-K", where, "-a", "ECDSAP256SHA256", *flags, "signed.test")
        words = ("-S", "-K", where, "-o", "signed.test", "-f", where / "zone.signed", where / "zone")
        made.host.run(*libraries, tool("dnssec-signzone"), *words)
        (key,) = (each for each in where.glob("Ksigned.test.+*.key") if " 257 " in each.read_text())
        record = next(line for line in key.read_text().splitlines() if not line.startswith(";"))
        (where / "anchor").write_text(record + "\n")
        owner, _in, _type, *rest = record.split()
        data = f'{" ".join(rest[:3])} "{"".join(rest[3:])}"'
        (where / "bind.keys").write_text(f"trust-anchors {{ {owner} static-key {data}; }};\n")
        made.remote.serve(*libraries, tool("named"), "-g", "-c", where / "named.conf", port=53, proto="udp")
        made.host.serve(*libraries, tool("unbound"), "-d", "-c", where / "unbound.conf", port=53, proto="udp")
        made.resolv("nameserver 127.0.0.53\n")
        yield made


def validated(lab: Lab, guest: scenarios.Guest, *question: str) -> str:
    anchors = lab.directory / "bind.keys"
    done = guest.run("delv", f"@{OURS}", "-a", anchors, "+root=signed.test", *question, check=False, timeout=60)
    return done.stdout + done.stderr


def test_an_allowed_name_validates_in_the_guest_behind_a_resolver_that_validates(signed: Lab) -> None:
    with signed.guest(*allow("www.signed.test:80")) as guest:
        for kind, address in (("A", FAR4), ("AAAA", FAR6)):
            shown = validated(signed, guest, "www.signed.test", kind)
            assert "; fully validated" in shown and address in shown, shown
        flags = guest.run("dig", "+dnssec", "+tries=1", "+time=20", f"@{OURS}", "www.signed.test").stdout
        assert " ad" in flags.partition(";; flags:")[2].partition(";")[0] and "RRSIG" in flags
        assert fetched(guest, "http://www.signed.test/") == "it works"
        assert status(guest, "ns.signed.test") == "NXDOMAIN"
        assert "fully validated" not in validated(signed, guest, "ns.signed.test", "A")
        assert fetched(guest, "http://www.signed.test/") == "it works"


@pytest.mark.parametrize("rules", [("deep.old.signed.test:80",), ("*.old.signed.test:80",)])
def test_a_name_that_a_dname_leads_on_is_reached_and_validates(signed: Lab, rules: tuple[str, ...]) -> None:
    with signed.guest(*allow(*rules)) as guest:
        assert fetched(guest, "http://deep.old.signed.test/") == "it works"
        shown = validated(signed, guest, "deep.old.signed.test", "A")
        assert "; fully validated" in shown and "DNAME" in shown and FAR4 in shown, shown
        assert "Could not resolve" in refused(guest, "http://www.signed.test/")


def test_a_dname_into_a_denied_name_leads_nowhere(signed: Lab) -> None:
    with signed.guest("--deny", "*.new.signed.test", *allow("deep.old.signed.test:80")) as guest:
        assert fetched(guest, "http://deep.old.signed.test/") == "it works"  # a chain is followed under the name that was asked
        assert status(guest, "deep.new.signed.test") == "NXDOMAIN"
