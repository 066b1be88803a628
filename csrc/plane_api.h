/* The only ABI that Python sees: an opaque plane, a configuration, events.
 *
 * The plane never calls back. plane_run() blocks until Python has something to do and says what; Python does it and
 * calls plane_run() again. All functions return 0 or -errno unless they say otherwise, and must be called from one thread.
 * Addresses are 16 bytes, IPv4 in v4-mapped form (RFC 4291, 2.5.5.2); all zero means "none".
 */
#ifndef PASTA_PLANE_API_H
#define PASTA_PLANE_API_H

#include <stdint.h>

/* cdef begin */
#define PLANE_PUNT 1  /* a frame for the slow path: data, len */
#define PLANE_WATCH 2 /* a watched descriptor is readable or hung up: id */
#define PLANE_TICK 3  /* the interval set with plane_tick() has passed: id is 0 if there is nothing else to do */
#define PLANE_LOG 4   /* a line for the log: id is the level, data the text without newline */
#define PLANE_END 5   /* the tap is gone: id is an errno */

#define PLANE_VNET_HDR 1 /* frames on the tap carry struct virtio_net_hdr, 10 bytes, or with PLANE_TUNNELS 24 */
#define PLANE_USO 2      /* the tap exchanges UDP segmentation offload frames */
#define PLANE_IPV4 4
#define PLANE_IPV6 8
#define PLANE_TCP 16
#define PLANE_UDP 32
#define PLANE_ICMP 64
#define PLANE_LO_TO_LO 256    /* splicing goes to the guest's loopback, not to its own address */
#define PLANE_SPLICE 512      /* clients on the host's loopback do not take the tap */
#define PLANE_LOSSY 1024      /* frames come another way than from a tap of ours, and may get lost on it */
#define PLANE_DNS_TLS 2048    /* dns_forward takes DNS over TLS too, at port 853 */
#define PLANE_TUNNELS 4096    /* the tap gives segmentation offload frames inside of UDP tunnels too: with PLANE_VNET_HDR */
#define PLANE_MULTICAST 8192  /* the guest's UDP to multicast groups reaches the host's network */
#define PLANE_BROADCAST 16384 /* and its broadcasts */
#define PLANE_NO_PEEK_OFF 128 /* do without SO_PEEK_OFF even where the kernel has it; for tests */

#define SHARDS_MAX 16 /* threads of one plane */

struct plane_config {
	int32_t tap_fd;        /* one frame per read and write; made non-blocking, not closed by plane_free() */
	uint32_t flags;        /* PLANE_VNET_HDR and following */
	uint32_t mtu;          /* of the guest's interface, bytes */
	uint32_t link_mtu;     /* of the host's outbound interface, bytes */
	uint32_t scope6;       /* host interface index for link-local destinations, and in the same way for multicast */
	uint32_t link4;        /* host interface index for multicast and broadcast; 0: none leaves, unless by outbound_if4 */
	uint32_t guest_scope6; /* index of the tap in the guest's namespace; 0: not known */
	uint32_t log_level;    /* 0 error, 1 warning, 2 info, 3 debug, 4 trace */
	uint8_t guest_mac[6];
	uint8_t our_mac[6];
	uint8_t guest4[16];
	uint8_t guest6[16];
	uint8_t gateway4[16];
	uint8_t gateway6[16];
	uint8_t our_ll6[16];
	uint8_t map_host_loopback4[16];
	uint8_t map_host_loopback6[16];
	uint8_t map_guest_addr4[16];
	uint8_t map_guest_addr6[16];
	uint8_t host4[16]; /* what map_guest_addr4 stands for */
	uint8_t host6[16];
	uint8_t dns_forward4[16];
	uint8_t dns_forward6[16];
	uint8_t dns_host4[16];
	uint8_t dns_host6[16];
	uint8_t outbound4[16];
	uint8_t outbound6[16];
	char outbound_if4[16];
	char outbound_if6[16];
};

struct plane_event {
	uint32_t kind; /* PLANE_PUNT and following */
	uint32_t id;
	uint32_t len;
	const uint8_t *data; /* valid until the next call */
};

struct plane;

int plane_new(const struct plane_config *config, struct plane **out);
void plane_free(struct plane *p);

/* An address that the guest has: a client that has it too is shown to the guest under another. */
int plane_add_guest_addr(struct plane *p, const uint8_t addr[16]);
/* An address that only we have: nothing leaves for it. */
int plane_add_virtual_addr(struct plane *p, const uint8_t addr[16]);
/* Any other address that the guest cannot have: what comes from there is dropped. */
int plane_add_barred_source(struct plane *p, const uint8_t addr[16]);
/* Bound non-blocking sockets (TCP: listening) of consecutive ports to be forwarded; not closed. On the host: its traffic goes to target:target_port in the
 * guest, or the guest's own address. In the guest's namespace (to_host): to target_port at the
 * same loopback address of the host. */
int plane_add_listeners(struct plane *p, int proto, const int fds[], uint32_t count, int to_host, const uint8_t target[16],
			uint16_t target_port);
/* Takes nothing more from it; flows of UDP through it end. */
int plane_remove_listener(struct plane *p, int fd);
/* The core's end of a socketpair whose other end a helper serves with helper_serve(). */
void plane_set_helper(struct plane *p, int fd);
/* A bound socket (TCP: listening) in the guest's namespace, made by the helper; at any address: of the loopback interface. The
 * descriptor or -errno. */
int plane_listen_in_guest(struct plane *p, int proto, const uint8_t addr[16], uint16_t port);
/* A sock_diag(7) socket of the guest's namespace, made by the helper: the descriptor or -errno. */
int plane_diag_in_guest(struct plane *p);
/* The helper's life, in a process of its own: enters the namespaces it is sent, makes sockets there until the other end
 * closes. First answers with a 32-bit 0, -errno, or errno as it is for a helper that works, without a filter on its calls.
 * by_chroot: as for confine_root. */
int helper_serve(int sock, uint32_t by_chroot);
/* Capture every frame to fd, not closed. */
int plane_capture(struct plane *p, int fd, int pcapng);
/* One line for a log, newline included, without waiting for whoever reads it; -EAGAIN: there is no room. */
int plane_log_line(int fd, const uint8_t *line, uint32_t len);
/* A thread for each of these further queues of the tap, made non-blocking, not closed. The last thing before the sandbox is
 * closed: no capture and no address can be added any more. They read nothing before plane_run() is called. */
int plane_add_shards(struct plane *p, const int tap_fds[], uint32_t count);
int plane_watch(struct plane *p, int fd, uint32_t id);
int plane_unwatch(struct plane *p, int fd);
void plane_tick(struct plane *p, uint32_t interval_ms);
/* Blocks until there is an event. */
int plane_run(struct plane *p, struct plane_event *event);
/* One Ethernet frame to the guest, all checksums complete. */
int plane_send(struct plane *p, const uint8_t *frame, uint32_t len);

/* Counters: names by index until NULL, values of the same index, of all threads together. */
const char *plane_counter_name(uint32_t index);
uint64_t plane_counter(const struct plane *p, uint32_t index);

/* Sandbox: each function gives up one thing, so that the caller can say which the kernel refused. 0 or -errno. */
#define CONFINE_USER 1
#define CONFINE_MOUNT 2
#define CONFINE_PID 4 /* of the next child */
#define CONFINE_IPC 8
#define CONFINE_UTS 16
/* unshare(2) of these namespaces. */
int confine_unshare(uint32_t which);
/* An empty, read-only root directory; the mount namespace must be ours alone. by_chroot: also where pivot_root is refused. */
int confine_root(uint32_t by_chroot);
/* No capability but those kept (bits below 32) in any set of this thread and those it starts, no way to gain one, not
 * dumpable, no core dumps. */
int confine_privileges(uint32_t kept);
/* As many descriptors as the administrator allows. */
int confine_descriptors(void);
/* /proc/self belongs to the present user again after a change of user, for uid_map. */
int confine_dumpable(void);
/* What a fork has of its parent's environment is zeroed, but for the variables whose names begin so; `kept` ends with NULL. */
void confine_environment(const char *const kept[]);
/* The name that ps(1) and pgrep(1) know the process by; 15 bytes of it. */
int confine_name(const char *name);
/* Landlock: no file can be opened, no abstract UNIX socket connected, no process outside signalled, as far as the kernel knows
 * these rules; for this thread and those it starts. -ENOSYS or -EOPNOTSUPP: it has no Landlock. */
int confine_landlock(void);
/* No process can be started; no regular file grows, unless `files` says that one has to. */
int confine_limits(int files);
/* Only the system calls that csrc/io/seccomp_table.c allows to one of these, for all threads; any other kills the process. */
#define CONFINE_WORKER 1
#define CONFINE_HELPER 2
int confine_calls(uint32_t who);
/* cdef end */

#endif
