"""What control hands to the worker, as frozen records.

Both processes import this module, so it imports only `record`. Addresses are 16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2);
b"" is "none". MAC addresses are 6 bytes. pasta_py.control.planning.plan makes a WorkerPlan from the options and the host, and
worker_protocol carries it to the worker.
"""

from pasta_py.record import Record

IPPROTO_TCP = 6
IPPROTO_UDP = 17
MAX_EGRESS_RULES = 65534  # of a policy: an index of a rule has 16 bits, and 65535 is none

#: Roles of the descriptors that travel with a plan, in WorkerPlan.descriptors. The sockets of WorkerPlan.listeners follow them.
FD_TAP = "tap"  # one for each queue of the tap: each shard has one
FD_LINK = "link"  # a listening UNIX socket: the guest's machine connects, and its frames come over that connection
FD_CAPTURE = "capture"
FD_LOG = "log"  # stderr, a log file, or a connected syslog socket
FD_NETNS_PIDFD = "netns-pidfd"  # of the process whose namespace the guest has: readable when it has ended
FD_NETNS_INOTIFY = "netns-inotify"  # watches the directory that has the namespace's name; also used by those that follow
FD_GUEST_USERNS = "guest-userns"  # namespaces that the helper enters, user before network
FD_GUEST_NETNS = "guest-netns"
# Following the host (csrc/io/follow.c): a memory file with what control knows; a pipe that says what to wait for; rtnetlink and
# inotify, which say that something has changed (where there is FD_NETNS_INOTIFY, that one: a user has 128 instances)
FD_FOLLOW_STATE = "follow-state"
FD_FOLLOW_LOOK = "follow-look"
FD_FOLLOW_NETLINK = "follow-netlink"
FD_FOLLOW_INOTIFY = "follow-inotify"
FOLLOW_ROLES = (FD_FOLLOW_STATE, FD_FOLLOW_LOOK, FD_FOLLOW_NETLINK, FD_FOLLOW_INOTIFY)
FD_HOST_UPDATES = "host-updates"  # a socket whose other end says what has changed on the host (slirp4netns)
FD_FLOW_LOG = "flow-log"  # the files of --flow-log, which are written in turn, or a stream
FD_DECISION_LOG = "decision-log"  # those of --decision-log
FD_LEARN = "learn"  # a socket to the process that writes what is learned (--learn)
FD_CONTROL = "control"  # the control socket: a listening UNIX socket for commands that only read
FD_CONTROL_CHANGING = "control-changing"  # that of --control, for all commands
FD_METRICS = "metrics"  # a listening socket for scrapers (--metrics)
FD_CONF = "conf"  # the control socket (--conf-path): a listening UNIX socket for changes of port forwarding


class Listener(Record):
    """Consecutive ports of bound host sockets whose traffic goes to the guest.

    In WorkerPlan.guest_ports: ports that the helper binds in the guest's namespace, for services of the host.
    """

    proto: int  # IPPROTO_TCP or IPPROTO_UDP
    port: int  # the first port
    target: bytes  # address on the other side; b"": the guest's own, of the peer's family, or the host's loopback
    target_port: int  # for the first port; the others follow
    count: int = 1
    weak: bool = False  # in WorkerPlan.guest_ports: ports that cannot be bound are left out
    address: bytes = b""  # the sockets are bound to it; b"": any address
    ifname: str = ""  # the sockets are bound to this interface; "": to none
    inherited: bool = False  # from a service manager, so no rule has them


class AutoRule(Record):
    """Ports at which we listen while a program listens at their targets (pasta_py.worker.autoports)."""

    proto: int
    to_host: bool  # we listen in the guest's namespace, for targets on the host's loopback
    address: bytes  # where we listen; b"": any address
    ifname: str  # the interface that we bind to; "": none
    first: int
    last: int
    target: bytes  # address in the guest; b"": its own
    target_first: int


class ForwardRule(Record):
    """Ports of one direction, as the control socket (--conf-path) shows and changes them: a rule from which listeners are made."""

    proto: int
    to_host: bool
    address: bytes  # b"": any of both families; all zero: any of IPv6; always b"" if to_host
    ifname: str
    first: int
    last: int
    target: bytes
    target_first: int
    weak: bool  # ports that cannot be bound are left out
    scan: bool  # its ports are an AutoRule


class FamilyPlan(Record):
    """What the guest and the core use of one IP version: struct plane_family of csrc/plane_api.h. The defaults are "none"."""

    on: bool = False  # the guest has this IP version
    guest: bytes = b""  # its first address; IPv6: not link-local
    prefix: int = 0  # its prefix length
    gateway: bytes = b""  # the guest's default gateway
    map_host_loopback: bytes = b""  # stands for the host's loopback
    map_guest_addr: bytes = b""  # stands for `host`
    host: bytes = b""  # the host's own address
    dns_forward: bytes = b""  # DNS queries to it go to dns_host
    dns_host: bytes = b""  # of either IP version
    outbound: bytes = b""  # host sockets are bound to it
    outbound_if: str = ""  # and to this interface
    ifindex: int = 0  # host interface for multicast, IPv4 broadcast, link-local IPv6


class WorkerPlan(Record):
    """All that the worker needs besides descriptors."""

    # The link
    guest_mac: bytes
    guest_scope6: int = 0  # index of the tap in the guest's namespace, 0 if not known
    our_mac: bytes
    mtu: int  # of the guest's interface, in bytes, 68 to 65535
    link_mtu: int  # of the host's outbound interface
    vnet_hdr: bool  # frames on the tap carry a struct virtio_net_hdr, of 10 bytes
    uso: bool  # the tap takes and gives UDP segmentation offload
    tunnels: bool = False  # the tap gives segments inside of UDP tunnels too, and its header has 24 bytes

    stream: bool = False  # FD_TAP is a socket with a length before each frame; without FD_TAP a peer comes by FD_LINK
    vhost_user: bool = False  # the peer that comes by FD_LINK is a vhost-user front end
    pairs: int = 1  # of its queues, each with a thread
    one_off: bool = False  # the end of that peer is the end of the worker

    # What is on
    tcp: bool
    udp: bool
    icmp: bool
    multicast: bool = False  # the guest's UDP to groups reaches the host's network
    broadcast: bool = False  # the guest's UDP broadcasts reach the host's network
    dhcp: bool
    dhcpv6: bool
    ndp: bool
    ra: bool

    # Addresses
    family4: FamilyPlan
    family6: FamilyPlan
    our_link_local: bytes  # our own IPv6 address on the link: the source of RAs and DHCPv6; b"": none
    leases: int = 1  # addresses for DHCP, from family4.guest on; more than one: the guest's link may have other neighbours
    dns_tls: bool = True  # DNS over TLS (port 853) at dns_forward goes to dns_host too
    guest_addrs: tuple[bytes, ...]  # all addresses that the guest is known to have
    virtual_addrs: tuple[bytes, ...]  # only we have them, on the guest's link: nothing leaves for them
    barred_sources: tuple[bytes, ...]  # the guest cannot have them either: ours, and the broadcast addresses of its networks

    # What DHCP, DHCPv6 and router advertisements tell the guest
    dns: tuple[bytes, ...]  # nameservers, both families mixed, in order
    search: tuple[str, ...]
    hostname: str
    fqdn: str
    assign_mtu: bool  # announce the MTU
    lease_s: int = 0  # how long the leases of DHCP and DHCPv6 last; 0: without end

    # Names: the worker answers the guest's DNS queries itself (pasta_py.worker.dns_service)
    serves_dns: bool = False
    dns_servers: tuple[bytes, ...] = ()  # the host's nameservers, in order
    host_names: tuple[str, ...] = ()  # the host's own, which are not asked for without a rule
    all_names: bool = False  # names that no rule names are answered; where there is a policy, it says that
    pin_grace_s: int = 3600  # how long flows to what a name resolved to may begin after the answer has ended

    # Port forwarding
    listeners: tuple[Listener, ...]
    guest_ports: tuple[Listener, ...]  # on the loopback of the guest's namespace, for services on the host's loopback
    auto_rules: tuple[AutoRule, ...]
    rules: tuple[ForwardRule, ...] = ()  # the rules of the three above, where they can change later
    changing: bool = False  # control adds and removes rules while the worker serves
    splice: bool  # local connections go from socket to socket
    lo_to_lo: bool  # spliced connections go to the guest's loopback instead of its own address

    # What the guest may reach
    egress: bytes = b""  # the policy, as plane_egress() of csrc/plane_api.h takes it; b"": there is none
    tells_denials: bool = False  # at the end: what was denied
    whole_sandbox: bool = False  # a layer of the worker's sandbox that is missing ends the start
    egress_dns: str = ""  # which names are answered: a value of --egress-dns
    egress_dns_said: bool = False  # by the user; else it follows egress_default
    egress_default: str = ""  # "open", "internet" or "none": what no rule matches
    egress_rules: tuple[str, ...] = ()  # of each rule where it stands, the rule, its note; with tabs between them

    detours: bytes = b""  # what goes to an inspector or a proxy, as plane_detours() of csrc/plane_api.h takes it; b"": nothing
    detour_targets: bytes = b""
    detour_texts: tuple[str, ...] = ()  # the same for the user
    proxy_user: bytes = b""
    proxy_password: bytes = b""
    rate_out: int = 0  # what leaves the guest through the tap, bytes a second at most; 0: no limit
    rate_in: int = 0  # the same of what goes to it

    # The process
    program: str  # name at the head of log lines
    log_level: int  # 0 error, 1 warning, 2 info, 3 debug, 4 trace
    log_syslog: bool  # FD_LOG is a datagram socket to syslog, or to what log_format says
    log_format: str = "text"  # "json"; "journal": FD_LOG is a datagram socket to systemd-journald
    log_size: int  # limit of the log file in bytes; 0: FD_LOG is not a log file
    flow_log_file_bytes: int = 0  # limit of each file of FD_FLOW_LOG and FD_DECISION_LOG
    serves: str = ""  # what the user would call the guest: a command, a namespace, a process
    shown: tuple[tuple[str, str], ...] = ()  # of the summary of the start, what is not in this plan (control.planning.summary)
    said: tuple[tuple[int, str], ...] = ()  # level and line of what control has told the user, for a log that is not the terminal
    netns_name: str  # the file name that FD_NETNS_INOTIFY watches
    netns_watch: int = 0  # the number of its watch
    pcapng: bool  # format of FD_CAPTURE; else pcap
    capture_filter: bytes = b""  # a program of classic BPF; b"": every frame is captured
    capture_snaplen: int = 0  # bytes of a frame, at most; 0: all
    capture_file_bytes: int = 0  # size of each FD_CAPTURE, which are written in turn; 0: no limit
    stats_s: int  # seconds between two lines of counters, at least; 0: no lines
    lossy: bool  # FD_TAP is a descriptor from the user: frames may get lost behind it
    local_only: bool  # FD_TAP leads nowhere: there are no frames, only local connections
    descriptors: tuple[str, ...]  # the role of each descriptor, in order, without the sockets of `listeners`

    def family(self, version: int) -> FamilyPlan:
        """Of IP version 4 or 6."""
        return self.family4 if version == 4 else self.family6


class HostUpdate(Record):
    """What a change of the host means for a worker that serves. All fields but the last are those of WorkerPlan."""

    link_mtu: int
    dhcp: bool
    dhcpv6: bool
    ndp: bool
    ra: bool
    family4: FamilyPlan
    family6: FamilyPlan
    our_link_local: bytes
    dns_tls: bool
    guest_addrs: tuple[bytes, ...]
    virtual_addrs: tuple[bytes, ...]
    barred_sources: tuple[bytes, ...]
    dns: tuple[bytes, ...]
    search: tuple[str, ...]
    dns_servers: tuple[bytes, ...] = ()
    egress: bytes = b""
    gone: tuple[bytes, ...] = ()  # all addresses that the host had and has no more: flows bound to them end


def host_update(plan: WorkerPlan, gone: "tuple[bytes, ...]" = ()) -> HostUpdate:
    """What of a plan follows from the host."""
    values = {name: getattr(plan, name) for name in HostUpdate._fields if name != "gone"}
    return HostUpdate(**values, gone=gone)
