/* Purpose: which of rtnetlink's events can matter to the process that follows the host.
 *
 * How: a router renews the lifetimes of addresses every few seconds, and a link tells its statistics. Such events come again and again,
 * and change nothing that the guest gets. So an event is remembered without these fields. After a plan that found nothing different, the
 * events before it are harmless, until a plan finds something.
 */
#include "core/follow_events.h"

#include <linux/rtnetlink.h>
#include <string.h>

#include "base/bytes.h"

/* What an event of a kind is made of: bytes before its attributes, and how many of them count. */
static size_t fixed_bytes(uint16_t kind, size_t *counted)
{
	size_t fixed = 0;

	if (kind == RTM_NEWLINK)
		fixed = sizeof(struct ifinfomsg);
	else if (kind == RTM_NEWADDR)
		fixed = sizeof(struct ifaddrmsg);
	else if (kind == RTM_NEWROUTE)
		fixed = sizeof(struct rtmsg);
	*counted = kind == RTM_NEWLINK ? offsetof(struct ifinfomsg, ifi_change) : fixed;
	return fixed;
}

static bool counts(uint16_t kind, uint16_t attribute)
{
	if (kind == RTM_NEWLINK)
		return attribute == IFLA_IFNAME || attribute == IFLA_MTU || attribute == IFLA_OPERSTATE ||
		       attribute == IFLA_CARRIER;
	return attribute != (kind == RTM_NEWADDR ? IFA_CACHEINFO : RTA_CACHEINFO);
}

/* Moves what counts of a message to its start; how long that is, 0: a message that always matters. */
static size_t essence(uint8_t *data, size_t len)
{
	struct nlmsghdr header;
	size_t at, counted, kept = sizeof(header.nlmsg_type);

	if (len < sizeof(header))
		return 0;
	memcpy(&header, data, sizeof(header));
	at = fixed_bytes(header.nlmsg_type, &counted);
	if (!at || len < sizeof(header) + at)
		return 0;
	memcpy(data, &header.nlmsg_type, sizeof(header.nlmsg_type));
	memmove(data + kept, data + sizeof(header), counted);
	kept += counted;
	at += sizeof(header);
	while (at + sizeof(struct rtattr) <= len) {
		struct rtattr attribute;

		memcpy(&attribute, data + at, sizeof(attribute));
		if (attribute.rta_len < sizeof(attribute) || attribute.rta_len > len - at)
			break;
		if (counts(header.nlmsg_type, attribute.rta_type)) {
			memmove(data + kept, data + at, attribute.rta_len);
			kept += attribute.rta_len;
		}
		at += RTA_ALIGN(attribute.rta_len);
	}
	return kept;
}

static bool has(const struct follow_seen *s, uint64_t hash)
{
	for (uint32_t i = 0; i < s->count; i++)
		if (s->hashes[i] == hash)
			return true;
	return false;
}

bool follow_events_note(struct follow_events *e, uint8_t *data, size_t len)
{
	size_t kept = len ? essence(data, len) : 0;
	uint64_t hash = kept ? siphash(&e->key, data, kept) : 0;

	if (!kept)
		return true;
	if (!has(&e->seen, hash)) {
		if (e->seen.count < FOLLOW_SEEN_MAX)
			e->seen.hashes[e->seen.count++] = hash;
		else
			e->seen.overrun = true; /* their table is full: none is harmless */
	}
	return !has(&e->harmless, hash);
}

void follow_events_planned(struct follow_events *e, bool changed)
{
	e->harmless.count = 0;
	if (!changed && !e->seen.overrun) {
		memcpy(e->harmless.hashes, e->seen.hashes, e->seen.count * sizeof(e->seen.hashes[0]));
		e->harmless.count = e->seen.count;
	}
	e->seen.count = 0;
	e->seen.overrun = false;
}
