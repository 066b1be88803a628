/* Purpose: the only ABI between Python and the core: an opaque plane, its configuration, its events.
 *
 * How: the plane never calls back. plane_run() blocks until Python has something to do and returns what that is. Python does it and
 * calls plane_run() again.
 *
 * Invariants: a function returns 0 or -errno unless its comment says otherwise. One thread makes all calls for a plane. An
 * address is 16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2); all zero means none.
 */
#ifndef PASTA_PLANE_API_H
#define PASTA_PLANE_API_H

#include <stdint.h>

/* cdef begin */
/* Kinds of events: plane_event.kind. */
#define PLANE_PUNT 1   /* a frame for the slow path: data, len */
#define PLANE_WATCH 2  /* a watched descriptor is readable or hung up: id */
#define PLANE_TICK 3   /* the interval of plane_tick() has passed; id is 0 if the plane is idle */
#define PLANE_LOG 4    /* a line for the log: id is the level, data the text without newline */
#define PLANE_END 5    /* the tap has ended: id is an errno */
#define PLANE_EVENTS 6 /* events of flows wait: plane_take_events(); or answers: plane_take_answers() */
#define PLANE_LIST 7 /* a piece of the list of flows: data is an array of flow_event, id where the next begins, 0: it is the last */
/* With PLANE_SERVES_DNS: */
#define PLANE_DNS 8        /* a frame with a datagram to port 53: data, len; id is where its UDP header begins */
#define PLANE_DNS_STREAM 9 /* a TCP connection to port 53: id is a socket to it, the caller's; data the guest's address */
#define PLANE_ASK 10       /* a flow waits for a name that has to be asked again: data is an address, 16 bytes, and the name */

/* What the tap can do: plane_config.flags. */
#define PLANE_VNET_HDR 1       /* each frame begins with struct virtio_net_hdr, 10 bytes, or 24 with PLANE_TUNNELS */
#define PLANE_USO 2            /* frames with UDP segmentation offload, both ways */
#define PLANE_TUNNELS 4096     /* also frames with segmentation offload inside a UDP tunnel; needs PLANE_VNET_HDR */
#define PLANE_STREAM 32768     /* tap_fd is a socket with a 32-bit length before each frame; -1: plane_attach() brings it */
#define PLANE_VHOST_USER 65536 /* plane_attach() brings the UNIX socket of a vhost-user front end; tap_fd is -1 */
#define PLANE_LOSSY 1024       /* frames may be lost between the guest and tap_fd: SACK helps */

/* What the guest may use. */
#define PLANE_IPV4 4
#define PLANE_IPV6 8
#define PLANE_TCP 16
#define PLANE_UDP 32
#define PLANE_ICMP 64
#define PLANE_DNS_TLS 2048    /* DNS over TLS at dns_forward, port 853 (RFC 7858) */
#define PLANE_MULTICAST 8192  /* UDP to multicast groups of the host's network */
#define PLANE_BROADCAST 16384 /* UDP to broadcast addresses of the host's network */

#define PLANE_SERVES_DNS 262144 /* DNS queries of the guest, to any address, are for the caller to answer */

/* Local connections. */
#define PLANE_SPLICE 512   /* clients on the host's loopback are spliced */
#define PLANE_LO_TO_LO 256 /* splices go to the guest's loopback, not to its own address */

/* For tests. */
#define PLANE_NO_PEEK_OFF 128 /* work without SO_PEEK_OFF, as on a kernel without it */

#define SHARDS_MAX 16 /* threads of one plane */

/* What the guest and the plane use of one IP version. */
struct plane_family {
	uint8_t guest[16];             /* the guest's first address */
	uint8_t gateway[16];           /* the guest's default gateway */
	uint8_t map_host_loopback[16]; /* stands for the host's loopback */
	uint8_t map_guest_addr[16];    /* stands for `host` */
	uint8_t host[16];              /* the host's own address */
	uint8_t dns_forward[16];       /* DNS queries to it go to dns_host */
	uint8_t dns_host[16];          /* of either IP version */
	uint8_t outbound[16];          /* host sockets are bound to it */
	char outbound_if[16];          /* and to this interface; "" for none */
	uint32_t ifindex;              /* host interface for multicast, IPv4 broadcast, link-local IPv6; 0: none but outbound_if */
};

struct plane_config {
	int32_t tap_fd;        /* one frame per read and write; made non-blocking, not closed by plane_free() */
	uint32_t flags;        /* PLANE_VNET_HDR and following */
	uint32_t mtu;          /* of the guest's interface, bytes */
	uint32_t link_mtu;     /* of the host's outbound interface, bytes */
	uint32_t guest_scope6; /* index of the tap in the guest's namespace; 0: not known */
	uint32_t log_level;    /* 0 error, 1 warning, 2 info, 3 debug, 4 trace */
	uint64_t
		rate_in; /* limits of what goes to the guest through the tap, and of what leaves it, bytes a second, at least 1000; */
	uint64_t rate_out; /* 0: none */
	uint8_t guest_mac[6];
	uint8_t our_mac[6];
	struct plane_family family[2]; /* 0 IPv4, 1 IPv6 */
};

struct plane_event {
	uint32_t kind; /* PLANE_PUNT and following */
	uint32_t id;
	uint32_t len;
	const uint8_t *data; /* valid until the next call */
};

/* What the egress policy says. */
struct plane_verdict {
	uint32_t allow;  /* 0 or 1 */
	uint32_t reason; /* PLANE_BY_RULE and following */
	uint32_t rule;   /* its index; PLANE_NO_RULE: none */
};
#define PLANE_BY_RULE 0
#define PLANE_BY_DEFAULT 1
#define PLANE_PIN_ENDED 2 /* denied; a name allows it, but was resolved too long ago: ask for it again */
#define PLANE_NO_RULE 0xffff

struct plane;

int plane_new(const struct plane_config *config, struct plane **out);
void plane_free(struct plane *p);

/* An address of the guest. A host client with the same address appears to the guest under another one. */
int plane_add_guest_addr(struct plane *p, const uint8_t addr[16]);
/* An address that only the plane has: nothing leaves for it. */
int plane_add_virtual_addr(struct plane *p, const uint8_t addr[16]);
/* Another address that the guest cannot have: its packets from there are dropped. */
int plane_add_barred_source(struct plane *p, const uint8_t addr[16]);
/* Forwards consecutive ports: `fds` are bound, non-blocking sockets (TCP: listening), not closed. Sockets of the host: traffic
 * goes to target:target_port in the guest; without a target address to the guest's own. Sockets of the guest's namespace
 * (to_host): traffic goes to target_port at the same loopback address of the host. */
int plane_add_listeners(struct plane *p, int proto, const int fds[], uint32_t count, int to_host, const uint8_t target[16],
			uint16_t target_port);
/* Stops forwarding from this socket. UDP: its flows end. */
int plane_remove_listener(struct plane *p, int fd);
/* fd: a socket to a helper (helper_start()). */
void plane_set_helper(struct plane *p, int fd);
/* Asks the helper for a bound socket (TCP: listening) in the guest's namespace. An unspecified address means the loopback interface
 * only. Returns the descriptor or -errno. */
int plane_listen_in_guest(struct plane *p, int proto, const uint8_t addr[16], uint16_t port);
/* Asks the helper for a sock_diag(7) socket in the guest's namespace. Returns the descriptor or -errno. */
int plane_diag_in_guest(struct plane *p);
/* Forks the helper, which enters the namespaces that it receives, then makes sockets there until the other end closes. Its first answer
 * is 32 bits: 0; -errno; or a positive errno if the helper works but has no system call filter. null: becomes its standard streams.
 * ours: the number that the caller's end of the socket to it gets. by_chroot: as for confine_root(). 0 or -errno. */
int helper_start(int null, int ours, uint32_t by_chroot);

/* Captures frames, from before plane_add_shards() on. */
enum plane_capture_flags {
	PLANE_CAPTURE_PCAPNG = 1, /* else pcap */
};
struct plane_capture_config {
	const int *fds; /* not closed; several: files, written in turn */
	uint32_t files;
	uint64_t file_bytes; /* size of each file, at most; 0: no limit */
	uint32_t snaplen;    /* bytes of a frame, at most; 0: all */
	/* A program of classic BPF, as the kernel's struct sock_filter: code, jt, jf, k. -EINVAL if it is none. */
	const void *filter;
	uint32_t filter_len; /* instructions; 0: every frame is captured */
	uint32_t flags;      /* enum plane_capture_flags */
};
int plane_capture(struct plane *p, const struct plane_capture_config *config);
struct plane_captured {
	uint64_t frames, bytes, dropped;
};
/* Writes what is left and ends the capture; only at the end, as it ends the threads. Returns 0, or -errno of an error that no log
 * line has reported. */
int plane_capture_end(struct plane *p, struct plane_captured *captured);
const char *plane_capture_error_text(int error);
/* Begins a capture to a stream socket, while the plane runs: `first`, then a pcapng file, or without that flag records of a pcap file
 * without its header, whose highest bit of the original length tells that a frame is for the guest. file_bytes: a pcapng file that would
 * be longer ends, and the next one comes behind it; 0: there is one. Frames for which the socket has no room are left out. Returns a number for plane_capture_detach(), or -errno (-EBUSY: there are too many). */
int plane_capture_attach(struct plane *p, int fd, const void *filter, uint32_t filter_len, uint32_t snaplen, uint32_t flags,
			 uint64_t file_bytes, const char *first, uint32_t first_len);
/* An address has this name, as plain text: captures in pcapng tell it. While there is one, PLANE_EVENTS comes before the next frame
 * once an answer waits (plane_want_names()). */
void plane_capture_name(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len);
#define PLANE_CAPTURE_REST_BYTES 263000
/* Ends it. rest: gets what the socket has not taken of the last record, and the end of a pcapng file. Returns its length. */
uint32_t plane_capture_detach(struct plane *p, uint32_t number, struct plane_captured *captured, uint8_t *rest);
/* Writes one line of a log, newline included. Never waits for the reader: -EAGAIN if there is no room. */
int plane_log_line(int fd, const uint8_t *line, uint32_t len);
/* Starts a thread for each of these queues of the tap, made non-blocking, not closed. The threads read nothing before the first
 * plane_run(). Comes after plane_capture() and all plane_add_..._addr(), and before confine_limits(). */
int plane_add_shards(struct plane *p, const int tap_fds[], uint32_t count);
/* Replaces what the plane knows of the host, while flows live: family, flags and link_mtu of the configuration, and these lists, of
 * 16 bytes each: counts[0] addresses of the guest, [1] that only the plane has, [2] that the guest cannot have, [3] that the host
 * had and has no more. Flows bound to one of the last end: a TCP connection with a reset on both sides. All others go on. */
int plane_follow(struct plane *p, const struct plane_config *config, const uint8_t *addrs, const uint32_t counts[4]);
/* With PLANE_STREAM and PLANE_VHOST_USER: the socket of a peer, not closed; it has come, or gone after PLANE_END (an errno; EPROTO: no frame can have the
 * length that it gave). Flows and ports stay. */
int plane_attach(struct plane *p, int fd);
void plane_detach(struct plane *p);
int plane_watch(struct plane *p, int fd, uint32_t id);
/* Whether a watched descriptor is reported also while it has room to write. */
int plane_await_room(struct plane *p, int fd, uint32_t id, int wanted);
int plane_unwatch(struct plane *p, int fd);
/* As plane_watch(), for a socket whose connect() is under way: PLANE_WATCH comes when that has succeeded or failed. */
int plane_watch_connect(struct plane *p, int fd, uint32_t id);
void plane_tick(struct plane *p, uint32_t interval_ms);
/* Blocks until there is an event. */
int plane_run(struct plane *p, struct plane_event *event);
/* Sends one Ethernet frame to the guest. All its checksums are complete. */
int plane_send(struct plane *p, const uint8_t *frame, uint32_t len);

/* The egress policy. Without the first call there is none, and all is allowed. Later calls replace it, or change nothing; the first
 * comes before plane_add_shards(). Numbers are big-endian.
 *
 *   policy   version (1), default (0 deny, 1 allow), names (0 none, 1 those of rules, 2 all that no rule denies), 1 to verify names:
 *            a rule that allows a name, and port 443 or 80 of TCP and UDP, becomes one for TLS or HTTP;
 *            16 bits each: number of NAT64 prefixes, of prefixes in groups, of rules, 0; 32 bits 0;
 *            the NAT64 prefixes (of the lengths of RFC 6052, 2.2); the prefixes in groups; the rules in order
 *   prefix   an address, 8 bits length (of 128); in a group also 8 bits groups: 1 host, 2 LAN, 4 private, 8 metadata, 16 multicast
 *   rule     8 bits each: verdict (0, 1), protocols (1 TCP, 2 UDP, 4 echo, 9 TLS, 17 HTTP), kind (0 any destination, 1 prefix, 2 groups, 3 name,
 *            4 all names below), limit of a name (0 none, 1 prefix, 2 groups); 16 bits each: first and last port;
 *            for a name: 8 bits length, the name; for a prefix: the prefix; for groups: 8 bits as above, 128 for none of them
 *
 * A name has lower-case A-labels and no final dot. */
int plane_egress(struct plane *p, const uint8_t *policy, uint32_t len);
/* After a later call, which returned 0 for a change and 1 for the same policy as before: all flows of the guest are judged again, and
 * those that are denied end. Returns how many shards have not done so yet; kept, ended: flows, of those that have. */
uint32_t plane_egress_outcome(struct plane *p, uint32_t *kept, uint32_t *ended);
/* Only with a policy. The verdict on a flow of the guest (port 0 for echo), of a query for a name, and of an address in its answer:
 * whether any flow to it could be allowed under that name. */
void plane_egress_flow(struct plane *p, int proto, const uint8_t dest[16], uint16_t port, struct plane_verdict *out);
void plane_egress_by_name(struct plane *p, int proto, const char *name, uint32_t len, uint16_t port, struct plane_verdict *out);
void plane_egress_name(struct plane *p, const char *name, uint32_t len, struct plane_verdict *out);
void plane_egress_address(struct plane *p, const char *name, uint32_t len, const uint8_t addr[16], struct plane_verdict *out);
/* Which connections go to an inspector or a proxy, after plane_egress() and before plane_add_shards(). policy: rules as above. targets:
 * of each rule 16 bytes address, 16 bits port, 8 bits what is said there (0 nothing, 1 a PROXY header, 2 SOCKS5, 3 CONNECT of HTTP),
 * then the same of what no rule matches. What is denied goes straight to its destination. user, password: of the proxy, each of
 * 255 bytes at most; no user: none. */
int plane_detours(struct plane *p, const uint8_t *policy, uint32_t len, const uint8_t *targets, uint32_t targets_len,
		  const uint8_t *user, uint32_t user_len, const uint8_t *password, uint32_t password_len);
/* After plane_detours(): the same rules, after the host's prefixes have changed. Connections that are open stay as they are. */
int plane_detours_follow(struct plane *p, const uint8_t *policy, uint32_t len);
/* How rules that allow mention a name. */
#define PLANE_NAMED 1       /* this very name */
#define PLANE_NAMED_BELOW 2 /* a name below it */
uint32_t plane_egress_named(struct plane *p, const char *name, uint32_t len);
/* Pins an address to a name for keep_ms of CLOCK_BOOTTIME, in all threads: flows to it are judged by the rules of the name too.
 * -ENOSPC: there is no room, and nothing that could go. */
int plane_egress_pin(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len, uint64_t keep_ms);
/* After PLANE_ASK: the name has been asked, its addresses are pinned, or there was no answer. The flows that wait go on. */
void plane_egress_answered(struct plane *p, const uint8_t addr[16], const char *name, uint32_t len);
/* The names pinned to an address, those of ended pins too, each with a newline. Returns their bytes, space at most. */
uint32_t plane_egress_pinned(struct plane *p, const uint8_t addr[16], char *out, uint32_t space);

/* How a rule has names verified: PLANE_TLS, PLANE_HTTP, or 0. PLANE_NO_RULE: all rules, these bits. */
#define PLANE_TLS 8
#define PLANE_HTTP 16
uint32_t plane_egress_verifies(struct plane *p, uint32_t rule);
/* What a flow to this destination named when it was reset for it (the latest), or 0. Returns its length. */
#define PLANE_NAME_BYTES 253
uint32_t plane_egress_named_last(struct plane *p, const uint8_t dest[16], uint16_t port, char out[PLANE_NAME_BYTES]);

/* Counters: the name and the value at an index; no name (NULL) after the last. A value is the sum of all threads. */
const char *plane_counter_name(uint32_t index);
uint64_t plane_counter(const struct plane *p, uint32_t index);

/* Events of flows: struct flow_event is in core/event.h. They are kept only while they are wanted. -ENOMEM: not all are. */
struct flow_event;
int plane_want_events(struct plane *p, int wanted);
/* Takes at most `room` events; returns their number. */
uint32_t plane_take_events(struct plane *p, struct flow_event *out, uint32_t room);
/* Whether DNS answers for the guest are copied, for those who show names. -ENOMEM: they are not. */
int plane_want_names(struct plane *p, int wanted);
#define PLANE_ANSWERS_BYTES 32768
/* Takes the copies: of each 2 bytes of length (big-endian), and the message. When many wait, PLANE_EVENTS comes too. Returns their
 * bytes. */
uint32_t plane_take_answers(struct plane *p, uint8_t *out);
/* How many were lost so far, because they came faster than they were taken. */
uint64_t plane_lost_events(struct plane *p);
/* Begins a piece of the list of one shard's open flows, from the place `from`, 0 at first. It comes as PLANE_LIST. -EBUSY: one is on
 * its way. -ENOENT: there is no such shard. */
int plane_list_flows(struct plane *p, uint32_t shard, uint32_t from);
/* Before plane_free(): passes on what the guest has sent by now, and ends the threads. Afterwards events can be taken and flows be
 * listed, and nothing else happens. */
void plane_finish(struct plane *p);

/* The sandbox. Each function gives up one thing, so that the caller can say which one the kernel refused. */
#define CONFINE_USER 1
#define CONFINE_MOUNT 2
#define CONFINE_PID 4 /* of the next child */
#define CONFINE_IPC 8
#define CONFINE_UTS 16
/* unshare(2) of these namespaces. */
int confine_unshare(uint32_t which);
/* Makes the root an empty, read-only directory. The mount namespace must be the caller's alone. by_chroot: use chroot(2) where the
 * kernel refuses pivot_root(2). */
int confine_root(uint32_t by_chroot);
/* Drops all capabilities but `kept` (bits below 32) from every set of this thread and of those it starts. No way to gain one, not
 * dumpable, no core dumps. inherited: a program that it starts has those kept, too. */
int confine_privileges(uint32_t kept, int inherited);
/* Raises the limit of open descriptors to the hard limit. */
int confine_descriptors(void);
/* Gives /proc/self back to the present user after a change of user: uid_map needs it. */
int confine_dumpable(void);
/* Zeroes the environment that a fork has from its parent. Variables whose names begin with one of `kept` stay; NULL ends the
 * list. */
void confine_environment(const char *const kept[]);
/* Sets the name that ps(1) and pgrep(1) show, 15 bytes of it. */
int confine_name(const char *name);
/* Landlock, for this thread and those it starts: no file can be opened, no abstract UNIX socket connected, no outside process
 * signalled. An older kernel enforces the part that it knows. -ENOSYS or -EOPNOTSUPP: the kernel has no Landlock.
 * readable: paths, NULL ends the list, below which files can be read all the same; those that are missing are left out. NULL: none. */
int confine_landlock(const char *const readable[]);
/* The same, but every file can be read and executed as before. */
int confine_reading_only(void);
/* No process can be started. No regular file can grow, unless `files` is set. */
int confine_limits(int files);
/* Allows only the system calls that csrc/io/seccomp_table.c has for `who`, in all threads. Any other kills the process. Watcher and
 * applier: csrc/io/seccomp_follow.c, and any other fails. */
#define CONFINE_WORKER 1
#define CONFINE_HELPER 2
#define CONFINE_WATCHER 4
#define CONFINE_APPLIER 8
#define CONFINE_VHOST_USER 16 /* with CONFINE_WORKER: also those of a vhost-user link */
int confine_calls(uint32_t who);
/* Following the host. fd: a socket for rtnetlink's events. It drops those that cannot matter: of interfaces that are not in the list
 * but for their addresses and routes. Of big lists: -E2BIG, and all events pass. */
#define FOLLOW_LINKS_MAX 64
int follow_filter(int fd, const uint32_t links[], uint32_t count);
/* Forks the process that waits for changes of the host (csrc/io/follow.c). null: becomes its standard streams. ours: the number that the
 * caller's end of the socket to it gets. words, environment: of the program that looks at a change, strings that end with a zero byte
 * each; the word "plan" or "apply" is put behind them. Where addresses are not followed, the socket says why: one number of 32 bits,
 * FOLLOW_COUNTS_ON_HOST or -errno. FOLLOW_NAMESPACE_GONE: the name of the guest's namespace is gone. */
#define FOLLOW_COUNTS_ON_HOST 1
#define FOLLOW_NAMESPACE_GONE 2
int follow_start(int null, int ours, const char *words, uint32_t words_len, const char *environment, uint32_t environment_len);
/* cdef end */

#endif
