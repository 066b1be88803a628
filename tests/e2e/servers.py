"""Real servers in the remote: nginx with upload, dnsmasq."""

from lab import BIG, Lab


def nginx(lab: Lab, port: int = 80) -> None:
    """Start nginx in the remote, serving BIG/www and taking PUT there."""
    lab.remote.run("mkdir", "-p", f"{BIG}/www")
    conf = lab.directory / f"nginx-{port}.conf"
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
    client_max_body_size 0;
    client_body_temp_path {BIG}/body;
    proxy_temp_path {BIG}/proxy;
    fastcgi_temp_path {BIG}/fastcgi;
    uwsgi_temp_path {BIG}/uwsgi;
    scgi_temp_path {BIG}/scgi;
    server {{
        listen {port};
        listen [::]:{port};
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
