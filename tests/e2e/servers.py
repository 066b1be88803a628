"""Real servers: nginx with upload and dnsmasq in the remote, nameservers of the host's own."""

import subprocess
from pathlib import Path

import sid
from lab import BIG, REMOTE4, Lab, Space, wait_until


def nginx(lab: Lab, port: int = 80, certificate: "Path | None" = None) -> None:
    """Start nginx in the remote, serving BIG/www and taking PUT there; over TLS too with `pem` and `key` of a directory."""
    lab.remote.run("mkdir", "-p", f"{BIG}/www")
    conf = lab.directory / f"nginx-{port}.conf"
    listening = "listen 443 ssl; listen [::]:443 ssl;"
    tls = f"{listening} ssl_certificate {certificate}/pem; ssl_certificate_key {certificate}/key;" if certificate else ""
    conf.write_text(
        f"""\
daemon off;
master_process off;
user root root;
pid {BIG}/nginx-{port}.pid;
error_log {lab.directory}/nginx-{port}.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    sendfile on;
    send_timeout 300s;
    client_max_body_size 0;
    client_body_temp_path {BIG}/body;
    proxy_temp_path {BIG}/proxy;
    fastcgi_temp_path {BIG}/fastcgi;
    uwsgi_temp_path {BIG}/uwsgi;
    scgi_temp_path {BIG}/scgi;
    server {{
        listen {port};
        listen [::]:{port};
        {tls}
        root {BIG}/www;
        dav_methods PUT;
    }}
}}
"""
    )
    lab.remote.serve("nginx", "-c", conf, "-p", lab.directory, "-e", f"{lab.directory}/nginx-{port}.log", port=port)


def make_file(lab: Lab, name: str, size: int) -> str:
    """Write `size` bytes that never repeat at BIG/NAME in the lab; their SHA-256, hexadecimal."""
    return str(lab.remote.script("make_file.py", f"{BIG}/{name}", size)["sha256"])


DNS_NAME, DNS4, DNS6 = "host.example.test", "198.51.100.77", "2001:db8:77::77"
DNS_LONG = "long.example.test"  # its TXT record is too long for UDP without EDNS


def dnsmasq(lab: Lab) -> None:
    """Start dnsmasq in the remote: DNS_NAME has both addresses, DNS_LONG a TXT record of 1,200 bytes."""
    text = ",".join("x" * 240 for _ in range(5))
    lab.remote.serve(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user="),
        *(f"--host-record={DNS_NAME},{DNS4},{DNS6}", f"--txt-record={DNS_LONG},{text}"),
        port=53,
        proto="udp",
    )


def resolver(space: Space, *addresses: str, name_is: str = DNS4) -> None:
    """Start dnsmasq at these addresses alone: DNS_NAME, and "short" in the same domain, are `name_is`, DNS_LONG has 2,880 bytes."""
    space.sysctl(ipv4__ip_unprivileged_port_start=0)
    text = ",".join("x" * 240 for _ in range(12))
    space.serve(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--user="),
        *("--bind-interfaces", "--except-interface=none", *(f"--listen-address={address}" for address in addresses)),
        *(f"--host-record={DNS_NAME},short.example.test,{name_is}", f"--txt-record={DNS_LONG},{text}"),
        "--edns-packet-max=4096",
        port=53,
        proto="udp",
    )


def named_web(lab: Lab, resolv: str = "nameserver 127.0.0.53\n") -> None:
    """The host's one nameserver is at 127.0.0.53, and DNS_NAME is a web server in the remote, whose page is "it works"."""
    resolver(lab.host, "127.0.0.53", name_is=REMOTE4)
    nginx(lab)
    lab.remote.run("sh", "-c", f"echo it works >{BIG}/www/index.html")
    lab.resolv(resolv)


def own_etc(lab: Lab) -> None:
    """The host gets an /etc where resolv.conf is missing, and can be made, replaced and linked by its user."""
    copied = "passwd group hosts nsswitch.conf ld.so.cache"
    made = f"mkdir /run/etc; cd /etc; cp {copied} /run/etc; mount --bind /run/etc /etc; chmod 777 /run /run/etc"
    lab.host.run("sh", "-ec", made, caps=True)


def write(lab: Lab, path: str, text: str) -> None:
    """Make or replace a file of the host."""
    lab.host.run("sh", "-ec", f"cat >{path}.new; mv {path}.new {path}", input=text)


def systemd_resolved(lab: Lab, nameserver: str) -> "subprocess.Popen[str]":
    """Start systemd-resolved on a host with `own_etc`, at 127.0.0.53 and as the maker of the file that resolv.conf is a link to."""
    stub = "/run/systemd/resolve/stub-resolv.conf"
    lab.host.sysctl(ipv4__ip_unprivileged_port_start=0)
    lab.host.run("mkdir", "-p", "/etc/systemd", "/run/systemd/resolve")
    lab.host.run("ln", "-s", f"..{stub}", "/etc/resolv.conf")
    conf = f"[Resolve]\nDNS={nameserver}\nFallbackDNS=\nDomains=lan.test\nLLMNR=no\nMulticastDNS=no\n"
    write(lab, "/etc/systemd/resolved.conf", conf)
    program = sid.program("systemd-resolved", "systemd-resolved")
    process = lab.host.serve(program, port=53, proto="udp", caps=True)
    wait_until(lambda: lab.outer(stub).exists(), 10, stub)
    return process
