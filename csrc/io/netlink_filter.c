/* Purpose: what of rtnetlink's events wakes the process that follows the host.
 *
 * How: a container host makes and deletes hundreds of interfaces a second that are of no concern. A program of classic BPF on the
 * socket drops their events in the kernel (linux/rtnetlink.h). It passes:
 *
 *   link       of an interface in the list
 *   address    IPv4, or IPv6 of more than link scope; others of an interface in the list
 *   route      unicast, of the main table; not the link-local and multicast ones that the kernel makes for each interface
 *
 * Anything else that the program does not know passes.
 *
 * Rejected: reading all events. At 500 interfaces a second they take 4 % of a core, and overrun the socket.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "plane_api.h"

#define BODY sizeof(struct nlmsghdr)
#define PASS 0xffffffffu

struct program {
	struct sock_filter code[64 + 2 * FOLLOW_LINKS_MAX];
	uint16_t len;
};

static void put(struct program *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	p->code[p->len++] = (struct sock_filter){code, yes, no, k};
}

/* BPF loads are in network byte order, these fields in the host's. */
static uint32_t as_loaded32(uint32_t value)
{
	return htonl(value);
}

static void load(struct program *p, uint16_t size, size_t offset)
{
	put(p, (uint16_t)(BPF_LD | size | BPF_ABS), (uint32_t)offset, 0, 0);
}

static void result(struct program *p, uint32_t value)
{
	put(p, BPF_RET | BPF_K, value, 0, 0);
}

static void result_if(struct program *p, uint16_t size, size_t offset, uint32_t value, uint32_t verdict)
{
	load(p, size, offset);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
	result(p, verdict);
}

static void result_unless(struct program *p, uint16_t size, size_t offset, uint32_t value, uint32_t verdict)
{
	load(p, size, offset);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
	result(p, verdict);
}

static void only_listed(struct program *p, size_t index_at, const uint32_t links[], uint32_t count)
{
	load(p, BPF_W, index_at);
	for (uint32_t i = 0; i < count; i++)
		put(p, BPF_JMP | BPF_JEQ | BPF_K, as_loaded32(links[i]), (uint8_t)(count - i), 0);
	result(p, 0);
	result(p, PASS);
}

static void put_address(struct program *p, const uint32_t links[], uint32_t count)
{
	result_unless(p, BPF_B, BODY + offsetof(struct ifaddrmsg, ifa_family), AF_INET6, PASS);
	result_unless(p, BPF_B, BODY + offsetof(struct ifaddrmsg, ifa_scope), RT_SCOPE_LINK, PASS);
	only_listed(p, BODY + offsetof(struct ifaddrmsg, ifa_index), links, count);
}

static void put_route(struct program *p)
{
	size_t dst = BODY + sizeof(struct rtmsg) + RTA_LENGTH(sizeof(uint32_t)); /* behind RTA_TABLE: RTA_DST */

	result_unless(p, BPF_B, BODY + offsetof(struct rtmsg, rtm_table), RT_TABLE_MAIN, 0);
	result_unless(p, BPF_B, BODY + offsetof(struct rtmsg, rtm_type), RTN_UNICAST, 0);
	result_unless(p, BPF_B, BODY + offsetof(struct rtmsg, rtm_family), AF_INET6, PASS);
	result_unless(p, BPF_B, BODY + offsetof(struct rtmsg, rtm_protocol), RTPROT_KERNEL, PASS);
	result_if(p, BPF_B, BODY + offsetof(struct rtmsg, rtm_dst_len), 0, PASS);
	result_unless(p, BPF_H, dst + offsetof(struct rtattr, rta_type), htons(RTA_DST), PASS);
	result_if(p, BPF_B, dst + sizeof(struct rtattr), 0xff, 0); /* ff00::/8 */
	result_if(p, BPF_H, dst + sizeof(struct rtattr), 0xfe80, 0);
	result(p, PASS);
}

/* The program for events of two kinds, each as a function of its own: if not this kind, it jumps over them. */
static void put_kinds(struct program *p, uint16_t one, uint16_t other, uint16_t length)
{
	put(p, BPF_JMP | BPF_JEQ | BPF_K, htons(one), 1, 0);
	put(p, BPF_JMP | BPF_JEQ | BPF_K, htons(other), 0, (uint8_t)length);
}

int follow_filter(int fd, const uint32_t links[], uint32_t count)
{
	struct program p = {0}, parts[3] = {0};
	static const uint16_t kinds[3][2] = {{RTM_NEWLINK, RTM_DELLINK}, {RTM_NEWADDR, RTM_DELADDR}, {RTM_NEWROUTE, RTM_DELROUTE}};
	struct sock_fprog prog = {.filter = p.code};

	if (count > FOLLOW_LINKS_MAX)
		return -E2BIG;
	only_listed(&parts[0], BODY + offsetof(struct ifinfomsg, ifi_index), links, count);
	put_address(&parts[1], links, count);
	put_route(&parts[2]);
	load(&p, BPF_H, offsetof(struct nlmsghdr, nlmsg_type));
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		put_kinds(&p, kinds[i][0], kinds[i][1], parts[i].len);
		for (uint16_t k = 0; k < parts[i].len; k++)
			p.code[p.len++] = parts[i].code[k];
	}
	result(&p, PASS);
	prog.len = p.len;
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ? -errno : 0;
}
