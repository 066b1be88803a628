#include "io/capture_names.h"

#include <errno.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/siphash.h"
#include "wire/ends.h"

#define SETS 256

int capture_names_init(struct capture_names *n)
{
	n->set = calloc(SETS, sizeof(*n->set)); /* takes memory as it is used */
	return n->set ? 0 : -ENOMEM;
}

void capture_names_free(struct capture_names *n)
{
	free(n->set);
	n->set = NULL;
}

/* A guest that makes hashes collide loses names of its own. So no key is needed. */
static uint64_t hash(const void *data, size_t len)
{
	static const struct siphash_key key;

	return siphash(&key, data, len);
}

static struct capture_name_set *set_of(const struct capture_names *n, const struct addr *a)
{
	return &n->set[hash(a, sizeof(*a)) % SETS];
}

static struct capture_name *find(struct capture_name_set *set, const struct addr *a)
{
	for (size_t i = 0; i < ARRAY_LEN(set->name); i++)
		if (set->name[i].len && addr_eq(&set->name[i].addr, a))
			return &set->name[i];
	return NULL;
}

void capture_names_learn(struct capture_names *n, const struct addr *a, const char *text, uint32_t len)
{
	struct capture_name_set *set;
	struct capture_name *name;

	if (!n->set || !len || len > PCAP_NAME_MAX)
		return;
	set = set_of(n, a);
	name = find(set, a);
	if (!name)
		name = &set->name[set->next++ % ARRAY_LEN(set->name)];
	name->addr = *a;
	name->len = (uint8_t)len;
	memcpy(name->text, text, len);
}

/* Not 0. The same in both directions. */
static uint32_t flow_hash(const struct frame_ends *ends, bool from_guest)
{
	struct {
		struct addr guest, dest;
		uint16_t guest_port, dest_port;
		uint32_t proto;
	} key = {from_guest ? ends->src : ends->dst, from_guest ? ends->dst : ends->src,
		 from_guest ? ends->src_port : ends->dst_port, from_guest ? ends->dst_port : ends->src_port, ends->proto};

	_Static_assert(sizeof(key) == 40, "no padding, which would have any value");
	return (uint32_t)hash(&key, sizeof(key)) | 1u << 31;
}

/* Not 0. Another name of the same address has another one. */
static uint32_t name_hash(const struct capture_name *name)
{
	return (uint32_t)(hash(&name->addr, sizeof(name->addr)) ^ hash(name->text, name->len)) | 1u << 31;
}

const struct capture_name *capture_name_of(const struct capture_names *n, const struct capture_told *told,
					   enum capture_direction direction, const struct iovec *head, struct capture_mark *mark)
{
	bool from_guest = direction == CAPTURE_FROM_GUEST;
	const struct capture_name *name;
	const struct addr *dest;
	struct frame_ends ends;

	if (!n->set || !frame_ends(head->iov_base, head->iov_len, &ends))
		return NULL;
	mark->flow = flow_hash(&ends, from_guest);
	if (told->flow[mark->flow % CAPTURE_TOLD_FLOWS] == mark->flow && !ends.opens)
		return NULL;
	dest = from_guest ? &ends.dst : &ends.src;
	name = find(set_of(n, dest), dest);
	if (!name)
		return NULL;
	mark->name = name_hash(name);
	mark->name_is_new = told->name[mark->name % CAPTURE_TOLD_NAMES] != mark->name;
	return name;
}
