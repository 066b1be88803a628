"""Default values, and times that a user meets: what holds where no option says otherwise, in one place.

Elsewhere are the timeouts of flows (csrc/core/timeouts.h), how threads divide their time (csrc/core/scheduling.h), and what
slirp4netns has of its own (control/slirp4netns/options.py).
"""

# ---- options ----

MTU = 65520  # the largest multiple of 16 below 64 KiB: a whole segment and its headers in one frame
IFNAME = "tap0"
MAC = bytes.fromhex("9a559a559a55")  # of the translator on the guest's link
RUNAS_ID = 65534  # UID and GID, where real root starts it
LOG_SIZE_BYTES = 1 << 20
FLOW_LOG_SIZE_BYTES = 64 << 20
CAPTURE_FILE_MIN_BYTES = 4096  # --pcap-size: a ring of smaller files would hold no frame
FLOW_LOG_FILES = 2  # FILE and FILE.1, written in turn, each up to its part of that size; decision log and report too
CAPTURE_FILES = 2  # of --pcap-size
FOLLOW_GRACE_S = 10
PIN_GRACE_S = 3600
MACHINE_SOCKET = "/tmp/passt_{}.socket"  # QEMU's examples, and scripts, know it

# ---- what the guest is told ----

TAP_MTU = 1500  # of a new tap, which --mtu 0 leaves alone
LEASE_S = 120  # of a guest that configures itself and follows the host: it asks again after half of this
ROUTER_LIFETIME_S = 65535  # the longest there is (RFC 8319, 4)
ADVERTISE_S = 600  # between two router advertisements to a guest that follows the host

# ---- names (--egress-dns) ----

DENIED_NAME_S = 5  # TTL of a denial: a rule that is added takes effect after this time at the latest
PIN_MIN_S = 60
NAMESERVER_S = 1.0  # that each nameserver has for its answer,
NAMESERVER_ROUNDS = 2  # and how often all of them are asked

# ---- intervals and timeouts ----

PORT_SCAN_S = 0.8  # between scans for `auto`: a service can be reached within a second of its start
LEARN_S = 10.0  # between two writes of the file of --learn
WORKER_READY_S = 60
WORKER_END_S = 10
INSIDE_S = 60  # for what is done in the guest's namespaces at the start
COMMAND_SETUP_S = 30  # for the namespaces of a command
CONTROL_IDLE_S = 30.0  # of a client of the control socket, without a request, or with an answer that is not read
CONTROL_ANSWER_S = 10.0  # for an answer of an instance
PESTO_CLIENT_S = 5.0  # for the whole exchange with a client of --conf-path
