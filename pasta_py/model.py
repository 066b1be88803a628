"""What control hands to the worker, as frozen records.

Both processes import this module, so it imports nothing but `record`. Addresses are 16 bytes, IPv4 in its
v4-mapped form (RFC 4291, 2.5.5.2); b"" is "none". MAC addresses are 6 bytes. `control.plan` makes a WorkerPlan
out of the options and the host; `wire` carries it; nothing changes it afterwards.
"""

from pasta_py.record import Record

IPPROTO_TCP = 6
IPPROTO_UDP = 17

#: Roles of the descriptors that travel with a plan, in WorkerPlan.descriptors. The sockets of WorkerPlan.listeners follow them.
FD_TAP = "tap"  # as many as there are queues, one for each thread of the data plane
FD_CAPTURE = "capture"
FD_LOG = "log"  # stderr, a log file, or a connected syslog socket
FD_NETNS_PIDFD = "netns-pidfd"  # readable when the process whose namespace this is has ended
FD_NETNS_INOTIFY = "netns-inotify"  # watches the directory of the namespace's path
FD_GUEST_USERNS = "guest-userns"  # namespaces that the helper enters, user before network
FD_GUEST_NETNS = "guest-netns"
FD_CONF = "conf"  # listening UNIX socket for changes of port forwarding (--conf-path)


class Listener(Record):
    """Consecutive ports of bound host sockets whose traffic goes to the guest; in WorkerPlan.guest_ports, to be bound yet."""

    proto: int  # IPPROTO_TCP or IPPROTO_UDP
    port: int  # the first of them
    target: bytes  # address on the other side, b"": the guest's own of the peer's family, or the host's loopback
    target_port: int  # of the first port; the others follow
    count: int = 1
    weak: bool = False  # of WorkerPlan.guest_ports: ports that cannot be had are left out
    address: bytes = b""  # that the sockets are bound to, b"": any
    ifname: str = ""  # and the interface, "": none
    inherited: bool = False  # from a service manager: no rule's


class AutoRule(Record):
    """Ports that are listened at while something listens at their targets."""

    proto: int
    to_host: bool  # listens in the guest's namespace, for targets on the host's loopback
    address: bytes  # to listen at, b"": any
    ifname: str  # to be bound to, "": none
    first: int
    last: int
    target: bytes  # address in the guest, b"": its own
    target_first: int


class ForwardRule(Record):
    """Ports of one direction as --conf-path shows and changes them; what its listeners and automatic ports come from."""

    proto: int
    to_host: bool
    address: bytes  # b"": any, both families; all zero: any, IPv6; always b"" if to_host
    ifname: str
    first: int
    last: int
    target: bytes
    target_first: int
    weak: bool  # ports that cannot be had are left out
    scan: bool  # an AutoRule


class FamilyPlan(Record):
    """What the guest and the core use of one IP version: struct plane_family of csrc/plane_api.h. The defaults are "none"."""

    guest: bytes = b""  # the guest's first address; IPv6: not link-local
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
    """Everything the worker needs besides descriptors."""

    # The link
    guest_mac: bytes
    guest_scope6: int = 0  # index of the tap in the guest's namespace, 0 if not known
    our_mac: bytes
    mtu: int  # of the guest's interface, in bytes, 68 to 65535
    link_mtu: int  # of the host's outbound interface
    vnet_hdr: bool  # frames on the tap carry a struct virtio_net_hdr, of 10 bytes
    uso: bool  # the tap takes and gives UDP segmentation offload
    tunnels: bool = False  # the tap gives segments inside of UDP tunnels too, and its header has 24 bytes

    # What is on
    ipv4: bool
    ipv6: bool
    tcp: bool
    udp: bool
    icmp: bool
    multicast: bool = False  # UDP of the guest to groups reaches the host's network
    broadcast: bool = False  # and so does its broadcast
    dhcp: bool
    dhcpv6: bool
    ndp: bool
    ra: bool

    # Addresses
    family4: FamilyPlan
    family6: FamilyPlan
    our_ll6: bytes  # our own link-local address: source of RAs and DHCPv6
    leases: int = 1  # addresses for DHCP, from family4.guest on; more than one: the guest's link may have other neighbours
    dns_tls: bool = True  # DNS over TLS (port 853) at dns_forward goes to dns_host too
    guest_addrs: tuple[bytes, ...]  # all addresses that the guest is known to have
    virtual_addrs: tuple[bytes, ...]  # ours on the guest's link, and no machine's on the host's network: nothing leaves for them
    barred_sources: tuple[bytes, ...]  # what else the guest cannot have: ours, and the broadcast addresses of its networks

    # What DHCP, DHCPv6 and router advertisements tell the guest
    dns: tuple[bytes, ...]  # nameservers, both families mixed, in order
    search: tuple[str, ...]
    hostname: str
    fqdn: str
    assign_mtu: bool  # announce the MTU

    # Port forwarding
    listeners: tuple[Listener, ...]
    guest_ports: tuple[Listener, ...]  # on the loopback of the guest's namespace, for the loopback of the host
    auto_rules: tuple[AutoRule, ...]
    rules: tuple[ForwardRule, ...] = ()  # what all of these come from, where they are to change later
    changing: bool = False  # control adds and removes rules while the worker serves
    splice: bool  # local connections go from socket to socket
    lo_to_lo: bool  # and to the guest's loopback instead of its own address

    # The process
    program: str  # name at the head of log lines
    log_level: int  # 0 error, 1 warning, 2 info, 3 debug, 4 trace
    log_syslog: bool  # FD_LOG is a datagram socket to syslog
    log_size: int  # limit of the log file in bytes; 0: FD_LOG is no file of ours
    said: tuple[tuple[int, str], ...] = ()  # level and line, of what control has told the user: for the log, if that is elsewhere
    netns_name: str  # basename watched by FD_NETNS_INOTIFY
    pcapng: bool
    stats_s: int  # print counters at most every so many seconds; 0: never
    lossy: bool  # FD_TAP is a descriptor that we were given: frames may get lost on their way to it
    local_only: bool  # FD_TAP leads nowhere: no frames, just local connections
    descriptors: tuple[str, ...]  # the role of each descriptor sent along, in order, but for the sockets of `listeners`
