/* Purpose: builds the guest's frames and follows its connections.
 *
 * How: the guest has no stack. The script decides what is sent; this file fills in what a stack would know.
 */
#include "guest.h"

#include <netinet/in.h>
#include <stdlib.h>

#include "base/checksum.h"
#include "kernel.h"
#include "wire/icmp.h"
#include "wire/tcp.h"
#include "wire/udp.h"

#define V4(a, b, c, d) \
	{ \
		{ \
			0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d \
		} \
	}

const uint8_t GUEST_MAC[6] = {0x52, 0x54, 0, 0x12, 0x34, 0x56}, OUR_MAC[6] = {0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55};
const struct addr GUEST_ADDR[2] = {V4(10, 0, 2, 15), {{0xfd, [15] = 0x15}}};
const struct addr GATEWAY_ADDR[2] = {V4(10, 0, 2, 2), {{0xfd, [15] = 2}}};
const struct addr REMOTE_ADDR[2] = {V4(192, 0, 2, 10), {{0x20, 1, 0xd, 0xb8, [15] = 0x10}}};

struct guest guest;

void guest_start(uint32_t flags, uint32_t mtu)
{
	struct plane_config config = {.flags = flags, .mtu = mtu, .link_mtu = 1500, .log_level = 4};

	kernel_start();
	guest = (struct guest){.vnet_hdr = flags & PLANE_VNET_HDR, .mtu = mtu};
	if (guest.vnet_hdr)
		guest.header_bytes = flags & PLANE_TUNNELS ? sizeof(struct vnet_hdr_tunnel) : sizeof(struct vnet_hdr);
	for (int i = 0; i < SLOTS; i++)
		guest.slot[i] = (struct slot){.snd_nxt = GUEST_ISS,
					      .window = 0xffff,
					      .local_port = (uint16_t)(GUEST_PORT + i),
					      .dest_port = REMOTE_PORT,
					      .remote = REMOTE_ADDR[i % 2]};
	kernel.no_peek_offset = flags & PLANE_NO_PEEK_OFF;
	config.tap_fd = kernel_open(FAKE_TAP, false);
	memcpy(config.guest_mac, GUEST_MAC, 6);
	memcpy(config.our_mac, OUR_MAC, 6);
	for (int i = 0; i < 2; i++) {
		memcpy(config.family[i].guest, &GUEST_ADDR[i], 16);
		memcpy(config.family[i].gateway, &GATEWAY_ADDR[i], 16);
		memcpy(config.family[i].map_host_loopback, &GATEWAY_ADDR[i], 16);
	}
	config.family[1].ifindex = 2;
	REQUIRE(plane_new(&config, &guest.plane) == 0);
	REQUIRE(plane_watch(guest.plane, kernel_open(FAKE_SCRIPT, false), 1) == 0);
	memcpy(guest.plane->shard[0]->link.neighbours.last, GUEST_MAC, 6);
}

void guest_stop(void)
{
	plane_free(guest.plane);
	guest.plane = NULL;
	for (int i = 0; i < FAKE_COUNT; i++) /* descriptors that the core must not close */
		if (kernel.fd[i].kind == FAKE_TAP || kernel.fd[i].kind == FAKE_SCRIPT || kernel.fd[i].lent)
			kernel.fd[i].kind = FAKE_FREE;
	kernel_stop();
}

void guest_run(void)
{
	struct plane_event event;

	kernel.waits = 0;
	for (;;) {
		REQUIRE(plane_run(guest.plane, &event) == 0);
		for (uint32_t i = 0; i < event.len; i++) {
			volatile uint8_t byte = event.data[i];

			REQUIRE(event.kind != PLANE_LOG || (byte >= ' ' && byte < 127), "a line of the log is text");
		}
		REQUIRE(event.kind == PLANE_PUNT || event.kind == PLANE_LOG || event.kind == PLANE_WATCH);
		REQUIRE(event.kind != PLANE_PUNT || (event.len >= ETH_HLEN && event.len <= PUNT_MAX_BYTES));
		if (event.kind == PLANE_WATCH)
			return;
	}
}

/* --- frames --- */

static void send_frame(const uint8_t *frame, uint32_t len)
{
	uint8_t *with_header = malloc(sizeof(struct vnet_hdr) + len);

	REQUIRE(with_header);
	memcpy(with_header, &guest.vnet, sizeof(guest.vnet));
	memcpy(with_header + sizeof(guest.vnet), frame, len);
	if (guest.vnet_hdr)
		kernel_frame(with_header, sizeof(guest.vnet) + len);
	else
		kernel_frame(frame, len);
	free(with_header);
}

/* Sends the packet in fragments of guest.fragment_bytes. */
static void send_fragments(const uint8_t *frame, uint32_t l4, uint32_t len, bool v6)
{
	uint32_t size = (guest.fragment_bytes & ~7u) < 8 ? 8 : guest.fragment_bytes & ~7u, total = len - l4, number = 0;
	uint8_t *part = malloc(l4 + 8 + size);

	REQUIRE(part);
	for (uint32_t at = 0; at < total && number < 24; at += size, number++) {
		uint32_t n = u32_min(size, total - at), more = at + n < total, head = v6 ? l4 + 8 : l4;
		uint8_t *ip = part + ETH_HLEN;
		uint16_t sum;

		if (guest.fragment_skip >> (number % 32) & 1)
			continue;
		memcpy(part, frame, l4);
		memcpy(part + head, frame + l4 + at, n);
		if (v6) {
			part[l4] = ip[6];
			part[l4 + 1] = 0;
			store_be16(part + l4 + 2, (uint16_t)(at | more));
			store_be32(part + l4 + 4, 77);
			ip[6] = IPPROTO_FRAGMENT;
			store_be16(ip + 4, (uint16_t)(8 + n));
		} else {
			store_be16(ip + 2, (uint16_t)(IP4_HLEN + n));
			store_be16(ip + 4, 77);
			store_be16(ip + 6, (uint16_t)(at / 8 | (more ? 0x2000 : 0)));
			memset(ip + 10, 0, 2);
			sum = (uint16_t)~csum_fold(csum_add(ip, IP4_HLEN, 0));
			memcpy(ip + 10, &sum, 2);
		}
		send_frame(part, head + n);
	}
	free(part);
}

/* Sends the transport packet at frame + l4: adds headers and the transport checksum. */
static void send_packet(uint8_t *frame, int slot, uint8_t proto, const struct addr *to, uint32_t len, uint32_t csum_offset,
			uint8_t ttl, uint8_t tos)
{
	bool v6 = slot % 2;
	uint32_t l4 = ETH_HLEN + (v6 ? IP6_HLEN : IP4_HLEN);
	uint16_t sum = 0;

	eth_emit(frame, OUR_MAC, GUEST_MAC, v6 ? ETH_TYPE_IPV6 : ETH_TYPE_IPV4);
	ip_emit(frame + ETH_HLEN, &GUEST_ADDR[v6], to, proto, ttl, tos, !guest.fragment_bytes, len);
	memset(frame + l4 + csum_offset, 0, 2);
	sum = (uint16_t)~csum_fold(
		csum_add(frame + l4, len, proto == IPPROTO_ICMP ? 0 : ip_pseudo_sum(&GUEST_ADDR[v6], to, proto, len)));
	sum = (uint16_t)(sum + guest.bad_checksum);
	if (!sum)
		sum = 0xffff;
	memcpy(frame + l4 + csum_offset, &sum, 2);
	if (guest.fragment_bytes)
		send_fragments(frame, l4, l4 + len, v6);
	else
		send_frame(frame, l4 + len);
	guest.vnet = (struct vnet_hdr){0};
	guest.bad_checksum = false;
	guest.fragment_bytes = guest.fragment_skip = 0;
}

static uint8_t *new_frame(int slot, uint32_t len, uint8_t **transport)
{
	uint8_t *frame = calloc(1, ETH_HLEN + IP6_HLEN + len);

	REQUIRE(frame);
	*transport = frame + ETH_HLEN + (slot % 2 ? IP6_HLEN : IP4_HLEN);
	return frame;
}

void guest_segment(int slot, uint8_t flags, uint32_t sequence, uint32_t ack, uint32_t payload, bool syn_mss, int syn_wscale)
{
	const struct slot *s = &guest.slot[slot];
	uint8_t *tcp, *frame = new_frame(slot, TCP_HLEN + TCP_MAX_OPTIONS_BYTES + payload, &tcp);
	uint32_t header = tcp_emit(tcp, s->local_port, s->dest_port, seq(sequence), seq(ack), flags, s->window, syn_mss ? 1460 : 0,
				   syn_wscale < 0 ? 255 : (uint8_t)syn_wscale);

	for (uint32_t i = 0; i < payload; i++)
		tcp[header + i] = content_from_guest(sequence + !!(flags & TCP_SYN) + i);
	send_packet(frame, slot, IPPROTO_TCP, &s->remote, header + payload, TCP_CSUM_OFFSET, IP_TTL_DEFAULT, 0);
	free(frame);
}

void guest_datagram(int slot, uint16_t port, uint32_t payload, uint8_t ttl, uint8_t tos)
{
	const struct slot *s = &guest.slot[slot];
	uint8_t *udp, *frame = new_frame(slot, UDP_HLEN + payload, &udp);

	udp_emit(udp, s->local_port, port, payload);
	memset(udp + UDP_HLEN, 0x75, payload);
	send_packet(frame, slot, IPPROTO_UDP, &s->remote, UDP_HLEN + payload, UDP_CSUM_OFFSET, ttl, tos);
	free(frame);
}

void guest_echo(int slot, uint16_t id, uint32_t payload)
{
	uint8_t *icmp, *frame = new_frame(slot, ICMP_HLEN + payload, &icmp);

	icmp[0] = slot % 2 ? ICMP6_ECHO_REQUEST : ICMP4_ECHO_REQUEST;
	store_be16(icmp + 4, id);
	send_packet(frame, slot, slot % 2 ? IPPROTO_ICMPV6 : IPPROTO_ICMP, &guest.slot[slot].remote, ICMP_HLEN + payload,
		    ICMP_CSUM_OFFSET, IP_TTL_DEFAULT, 0);
	free(frame);
}

/* --- answers --- */

void guest_heard(bool v6, uint16_t dest_port, uint16_t local_port, const struct addr *remote, const uint8_t *tcp, uint32_t payload)
{
	uint32_t sequence = load_be32(tcp + 4);
	struct slot *s = NULL;

	for (int i = v6; i < SLOTS; i += 2)
		if (guest.slot[i].local_port == local_port && guest.slot[i].dest_port == dest_port &&
		    addr_eq(&guest.slot[i].remote, remote))
			s = &guest.slot[i];
	/* A new client of the host: it gets the last slot of its IP version. */
	if (!s && tcp[13] & TCP_SYN) {
		s = &guest.slot[v6 ? SLOTS - 1 : SLOTS - 2];
		*s = (struct slot){.snd_nxt = GUEST_ISS,
				   .window = 0xffff,
				   .local_port = local_port,
				   .dest_port = dest_port,
				   .remote = *remote};
	}
	if (!s || tcp[13] & TCP_RST)
		return;
	if (tcp[13] & TCP_SYN) {
		s->rcv_nxt = sequence + 1;
		s->scaled = (tcp[12] >> 4) * 4 > TCP_HLEN + 4;
	} else if (sequence == s->rcv_nxt) {
		s->rcv_nxt += payload + !!(tcp[13] & TCP_FIN);
	}
	if (tcp[13] & TCP_ACK) {
		s->acked = load_be32(tcp + 8);
		s->edge = s->acked + ((uint32_t)load_be16(tcp + 14) << (s->scaled && !(tcp[13] & TCP_SYN) ? 8 : 0));
	}
}
