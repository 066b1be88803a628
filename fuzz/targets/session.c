/* Purpose: fuzz target: a script drives a guest, its peers and a clock against a live core in the simulated kernel (kernel.h).
 *
 * How: a script is text. The first character chooses the tap (see LLVMFuzzerTestOneInput). Then come commands: a letter and its
 * arguments, one character each: '0' is 0, 'a' is 49, and so on modulo 256. Other characters are skipped, so that files in
 * corpus/session can have spaces and lines. X is one of eight connections of the guest (odd: IPv6), N an index of a table below,
 * K the K-th open socket of its kind on the host.
 *
 *   guest     S X N SYN, N its options         Y X   SYN-ACK, to a client of the host     A X   acknowledges all received
 *             D X N next data of size[N]       d X O N F  data at offset[O], flags F      F X   FIN
 *             a X O N  ACK at offset[O], window[N]        R X O reset at offset[O]        H X O SYN at offset[O]
 *             f X O FIN, ACK at offset[O]
 *             W X N window[N]                  U X N T  datagram of size[N], TTL T        I X N echo request
 *             T X P its peer, from remotes[]   G N M  next packet in fragments            V T N  virtio header of the next
 *             X N .. N raw bytes as a frame    C     wrong checksum in the next           B     frames wait until the next command
 *   host      k K   connect() succeeds         j K E it fails with error[E]               p K N peer writes size[N] bytes
 *             e K   the peer's end             r K   the peer resets                      q K N peer takes size[N] bytes
 *             b K N send buffer of size[N]     n L P client P at listener L               u K P N T  datagram from P of size[N]
 *             v K P E N  error E in the queue  i K P N  echo reply from P
 *   kernel    t N   time[N] passes             z E N the N-th call from now fails         o N   the tap refuses N frames
 *
 * At the end guest and peers are silent. All flows must then end by themselves, within SILENCE_MS.
 */
#include <errno.h>
#include <stdlib.h>

#include "guest.h"
#include "kernel.h"
#include "proto/tcp_private.h"
#include "wire/tcp.h"

#define PICK(table, n) ((table)[(n) % ARRAY_LEN(table)])
#define COMMANDS_MAX 400
/* The longest that a flow can take to end: TCP_IDLE_MS, then TCP_TRIES_MAX probes without an answer. */
#define SILENCE_MS (TCP_IDLE_MS + (TCP_TRIES_MAX + 1) * TCP_PROBE_MS + 60000)

static const uint32_t sizes[] = {0, 1, 2, 100, 536, 1000, 1460, 4096, 16384, 65000, 100000, 300000};
static const uint16_t windows[] = {0xffff, 0, 1, 10, 100, 1000, 0x4000, 0x8000};
static const int32_t offsets[] = {0,     1,    -1,    -2,     2,       10,      -10,        100,
				  -1000, 1460, 65535, -65536, 1 << 20, 1 << 30, -(1 << 30), INT32_MIN};
static const int32_t times_ms[] = {1, 100, 500, 1000, 2000, 10000, 31000, 61000, 121000, 301000, 7200000, 0};
static const int errors[] = {ECONNREFUSED, EHOSTUNREACH,  ENETUNREACH, ETIMEDOUT, ECONNRESET, EPIPE,  EACCES,
			     EPERM,        EMSGSIZE,      EAGAIN,      EINTR,     EMFILE,     ENFILE, ENOBUFS,
			     ENOMEM,       EADDRNOTAVAIL, EINVAL,      EPROTO,    EADDRINUSE, EIO};
/* Destinations and sources: ordinary ones, the gateway, the guest itself, and some that the address mapping must refuse. */
#define V4(a, b, c, d) \
	{ \
		{ \
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d \
		} \
	}
static const struct addr remotes[2][10] = {
	{V4(192, 0, 2, 10), V4(10, 0, 2, 2), V4(127, 0, 0, 1), V4(10, 0, 2, 15), V4(0, 0, 0, 0), V4(224, 0, 0, 1),
	 V4(255, 255, 255, 255), V4(198, 51, 100, 7), V4(169, 254, 1, 1), V4(240, 0, 0, 1)},
	{{{0x20, 1, 0xd, 0xb8, [15] = 0x10}},
	 {{0xfd, [15] = 2}},
	 {{[15] = 1}},
	 {{0xfd, [15] = 0x15}},
	 {{0}},
	 {{0xff, 2, [15] = 1}},
	 {{0xfe, 0x80, [15] = 9}},
	 {{0x20, 1, 0xd, 0xb8, [15] = 0x77}},
	 {{0xfe, 0x80, [15] = 1}},
	 {{[12] = 192, 0, 2, 1}}},
};

struct script {
	const uint8_t *at, *end;
	bool batch;
};

static uint32_t argument(struct script *s)
{
	return s->at < s->end ? (uint8_t)(*s->at++ - '0') : 0;
}

static uint32_t size_argument(struct script *s, uint32_t max)
{
	return u32_min(PICK(sizes, argument(s)), max);
}

/* --- the guest --- */

static void segment(int x, uint8_t flags, int32_t offset, int32_t ack_offset, uint32_t payload)
{
	struct slot *c = &guest.slot[x];

	guest_segment(x, flags, c->snd_nxt + (uint32_t)offset, flags & TCP_ACK ? c->rcv_nxt + (uint32_t)ack_offset : 0, payload,
		      false, -1);
	if (!offset)
		c->snd_nxt += payload + !!(flags & TCP_FIN);
}

static void guest_syn(int x, uint32_t options, uint8_t flags)
{
	struct slot *c = &guest.slot[x];

	c->snd_nxt = GUEST_ISS;
	guest_segment(x, flags, c->snd_nxt++, flags & TCP_ACK ? c->rcv_nxt : 0, options & 4 ? 10 : 0, options & 1,
		      options & 2 ? (int)(options >> 3) % 16 : -1);
}

static bool guest_tcp(struct script *s, uint8_t letter)
{
	int x = (int)(argument(s) % SLOTS);
	int32_t offset;
	uint32_t n;

	switch (letter) {
	case 'S':
		guest_syn(x, argument(s), TCP_SYN);
		return true;
	case 'Y':
		guest_syn(x, 3 | 7 << 3, TCP_SYN | TCP_ACK);
		return true;
	case 'A':
		segment(x, TCP_ACK, 0, 0, 0);
		return true;
	case 'D':
		segment(x, TCP_ACK | TCP_PSH, 0, 0, size_argument(s, guest.vnet_hdr ? 65000 : guest.mtu - 60));
		return true;
	case 'd':
		offset = PICK(offsets, argument(s));
		n = size_argument(s, 65000);
		segment(x, (uint8_t)(argument(s) & 0x3f), offset, 0, n);
		return true;
	case 'F':
		segment(x, TCP_ACK | TCP_FIN, 0, 0, 0);
		return true;
	case 'f':
		segment(x, TCP_ACK | TCP_FIN, 0, PICK(offsets, argument(s)), 0);
		return true;
	case 'a':
		offset = PICK(offsets, argument(s));
		guest.slot[x].window = PICK(windows, argument(s));
		segment(x, TCP_ACK, 0, offset, 0);
		return true;
	case 'R':
		segment(x, TCP_RST, PICK(offsets, argument(s)), 0, 0);
		return true;
	case 'H':
		segment(x, TCP_SYN, PICK(offsets, argument(s)), 0, 0);
		return true;
	case 'W':
		guest.slot[x].window = PICK(windows, argument(s));
		return true;
	}
	return false;
}

static void raw_frame(struct script *s)
{
	uint32_t len = argument(s);

	if (len > (uint32_t)(s->end - s->at))
		len = (uint32_t)(s->end - s->at);
	kernel_frame(s->at, len);
	s->at += len;
}

static bool guest_other(struct script *s, uint8_t letter)
{
	int x;
	uint32_t n;

	switch (letter) {
	case 'U':
		x = (int)(argument(s) % SLOTS);
		n = size_argument(s, 65000);
		guest_datagram(x, (uint16_t)(x < 4 ? 53 : 4000), n, (uint8_t)(argument(s) + 64), 0);
		return true;
	case 'I':
		x = (int)(argument(s) % SLOTS);
		guest_echo(x, (uint16_t)(x / 4 + 1), size_argument(s, 65000));
		return true;
	case 'T':
		x = (int)(argument(s) % SLOTS);
		guest.slot[x].remote = PICK(remotes[x % 2], argument(s));
		return true;
	case 'G':
		guest.fragment_bytes = 8 + PICK(sizes, argument(s));
		guest.fragment_skip = argument(s);
		return true;
	case 'V':
		n = argument(s);
		guest.vnet = (struct vnet_hdr){.flags = (uint8_t)(n & 3),
					       .gso_type = (uint8_t)(n >> 2 & 7),
					       .gso_size = (uint16_t)PICK(sizes, argument(s)),
					       .csum_start = (uint16_t)(ETH_HLEN + (n & 64 ? IP6_HLEN : IP4_HLEN)),
					       .csum_offset = n & 32 ? 6 : 16};
		return true;
	case 'C':
		guest.bad_checksum = true;
		return true;
	case 'B':
		s->batch = true;
		return true;
	case 'X':
		raw_frame(s);
		return true;
	}
	return false;
}

/* --- the host --- */

static void break_stream(struct fake *f, int error)
{
	f->connecting = f->connected = false;
	f->dead = true;
	f->error = error;
	f->rx_eof = true;
	f->queued = 0;
	kernel_changed(f);
}

static bool host_stream(struct script *s, uint8_t letter)
{
	struct fake *f = kernel_nth(FAKE_STREAM, argument(s));
	uint32_t n = letter == 'k' || letter == 'e' || letter == 'r' ? 0 : argument(s);
	bool lives = f && f->connected && !f->dead;

	if (f && letter == 'k' && f->connecting) {
		f->connecting = false;
		f->connected = true;
	} else if (f && letter == 'j' && f->connecting) {
		break_stream(f, PICK(errors, n));
	} else if (lives && letter == 'p' && !f->rx_eof) {
		if (f->rx_written - f->rx_dropped < 4 << 20)
			f->rx_written += PICK(sizes, n);
	} else if (lives && letter == 'e') {
		f->rx_eof = true;
	} else if (lives && letter == 'r') {
		break_stream(f, f->rx_eof ? EPIPE : ECONNRESET);
	} else if (lives && letter == 'q') {
		f->queued -= u32_min(f->queued, PICK(sizes, n));
	} else if (lives && letter == 'b') {
		f->sndbuf = u32_max(PICK(sizes, n), 4608); /* SOCK_MIN_SNDBUF */
	}
	if (f)
		kernel_changed(f);
	return letter && memchr("kjperqb", letter, 7);
}

static void host_datagram(struct script *s, uint8_t letter)
{
	struct fake *f = kernel_nth(letter == 'i' ? FAKE_PING : FAKE_DGRAM, argument(s));
	uint32_t who = argument(s), n = argument(s), what = letter == 'i' ? 0 : argument(s);
	struct fake_datagram d = {.ttl = (uint8_t)(64 + what), .tos = (uint8_t)(what >> 3)};
	bool v6 = f && f->v6 && !(who & 16);

	if (!f)
		return;
	d.from = (struct endpoint){PICK(remotes[v6], who & 15), (uint16_t)(what & 1 ? 53 : 4000)};
	if (letter == 'v') {
		d.len = u32_min(PICK(sizes, what), 1500);
		d.error = PICK(errors, n);
		d.origin = (uint8_t)(n & 32 ? 1 : v6 ? 3 : 2); /* SO_EE_ORIGIN_LOCAL, _ICMP6, _ICMP */
		d.type = (uint8_t)(v6 ? 1 + n % 4 : 3 + 8 * (n % 2));
		d.code = (uint8_t)(n % 8);
		d.info = PICK(sizes, what);
		if (!f->error_queue)
			f->error = d.error;
		else if (f->error_count < QUEUE_LEN)
			f->errors[f->error_count++] = d;
		return;
	}
	d.len = u32_min(PICK(sizes, n), 65507);
	if (what & 2 && d.len > 100 && letter == 'u')
		d.gro = d.len > 6400 ? 1400 : 100; /* the kernel merges at most 64 datagrams */
	d.pktinfo = what & 4;
	if (f->in_count < QUEUE_LEN)
		f->in[f->in_count++] = d;
}

static bool host_other(struct script *s, uint8_t letter)
{
	struct fake *f;
	uint32_t n;

	switch (letter) {
	case 'u':
	case 'v':
	case 'i':
		host_datagram(s, letter);
		return true;
	case 'n':
		f = kernel_nth(FAKE_LISTENER, argument(s));
		n = argument(s);
		if (f && f->clients < QUEUE_LEN)
			f->client[f->clients++] = (struct endpoint){PICK(remotes[f->v6], n & 15), (uint16_t)(5000 + n / 16)};
		return true;
	case 't':
		kernel.now_ms += PICK(times_ms, argument(s));
		return true;
	case 'z':
		kernel.fail_errno = PICK(errors, argument(s));
		kernel.fail_after = argument(s) % 16;
		return true;
	case 'o':
		kernel.tap_refuses = argument(s) % 64;
		return true;
	}
	return false;
}

/* --- a run --- */

/* Listening sockets: three for TCP and three for UDP; one of each is in the guest's namespace. */
static void listen_all(void)
{
	for (int i = 0; i < 6; i++) {
		bool tcp = i % 2, v6 = i / 2 == 1, to_host = i / 2 == 2;
		int fd = kernel_open(tcp ? FAKE_LISTENER : FAKE_DGRAM, v6);
		uint8_t target[16] = {0};

		kernel_fd(fd)->lent = true;
		REQUIRE(plane_add_listeners(guest.plane, tcp ? IPPROTO_TCP : IPPROTO_UDP, &fd, 1, to_host, target,
					    (uint16_t)(8000 + i)) == 0);
	}
}

static void obey(struct script *s)
{
	for (int i = 0; i < COMMANDS_MAX && s->at < s->end; i++) {
		uint8_t letter = *s->at++;
		bool waits = s->batch;

		if (letter && strchr("SYADdFfaRHW", letter) ? !guest_tcp(s, letter)
		    : letter && strchr("kjperqb", letter)   ? !host_stream(s, letter)
							    : !guest_other(s, letter) && !host_other(s, letter))
			continue;
		if (letter == 'B')
			continue;
		s->batch = false;
		if (waits)
			continue;
		guest_run();
		check_flows();
	}
}

/* Ends the script: guest and peers are silent, and the tap takes all frames again. */
static void silence(void)
{
	int64_t end = kernel.now_ms + SILENCE_MS;

	kernel.fail_errno = 0;
	kernel.tap_refuses = 0;
	kernel.finale = true;
	for (int i = 0; i < FAKE_COUNT; i++) {
		struct fake *f = &kernel.fd[i];
		bool spliced = loop_tag_owner(f->tag) == OWNER_SPLICE_ACCEPTED || loop_tag_owner(f->tag) == OWNER_SPLICE_CONNECTED;

		f->clients = 0;
		if (f->kind == FAKE_STREAM && spliced && !f->dead) /* a splice has no timeout: it ends with its peers */
			break_stream(f, f->connecting ? ETIMEDOUT : ECONNRESET);
	}
	guest_run();
	check_flows();
	REQUIRE(kernel.idle && kernel.now_ms <= end, "flows end in bounded time");
	REQUIRE(!guest.plane->shard[0]->tcp.flows.used && !guest.plane->shard[0]->udp.flows.used &&
		!guest.plane->shard[0]->icmp.flows.used);
	REQUIRE(!guest.plane->shard[0]->tcp.backlog_bytes && !guest.plane->shard[0]->splice.flows.used);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct script script = {data, data + len, false};
	uint32_t flags = PLANE_IPV4 | PLANE_IPV6 | PLANE_TCP | PLANE_UDP | PLANE_ICMP, how;

	how = argument(&script);
	flags |= (how & 1 ? PLANE_VNET_HDR : 0) | (how & 2 ? PLANE_USO : 0) | (how & 4 ? PLANE_NO_PEEK_OFF : 0);
	guest_start(flags, how & 8 ? 65520 : how & 16 ? 1280 : 1500);
	listen_all();
	obey(&script);
	guest_run();
	if (!(how & 32))
		silence();
	guest_stop();
	return 0;
}
