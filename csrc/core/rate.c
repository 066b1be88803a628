/* How: `due_ns` is the moment at which a link of that rate would have sent all that has passed (the virtual scheduling of ITU-T
 * I.371, annex A). After that moment a stream may send, one share at a time. Before it the stream waits: none of its bytes is dropped.
 * A datagram cannot wait. It passes while that moment is less than BACKLOG_NS away, as if it stood in a short queue. Otherwise it is
 * dropped. So short exchanges pass beside a stream, which makes room for them. While streams wait, datagrams get half of the rate.
 *
 * Rejected: a part of the rate for each shard (one stream would get only that); a queue of datagrams (memory, and delay for others).
 */
#include "core/rate.h"

#define NS_PER_S 1000000000
#define NS_PER_MS 1000000
#define UNUSED_NS 50000000         /* so much time without traffic may be made up for: a late thread loses nothing */
#define BACKLOG_NS 50000000        /* of datagrams */
#define QUERY_BACKLOG_NS 500000000 /* of DNS: a lost query costs its client seconds */
#define WAITED_NS 100000000        /* a stream that waited counts as waiting for this time */
#define SHARES_PER_S 200           /* a share is what passes in 5 ms, */
#define SHARE_MIN_BYTES 1400       /* about a packet at least, */
#define SHARE_MAX_BYTES (256u << 10)

uint32_t rate_share_bytes(const struct rate *r)
{
	uint64_t share = r->bytes_per_s / SHARES_PER_S;

	return share < SHARE_MIN_BYTES ? SHARE_MIN_BYTES : share > SHARE_MAX_BYTES ? SHARE_MAX_BYTES : (uint32_t)share;
}

static void add(_Atomic int64_t *due_ns, int64_t now_ns, uint32_t bytes, uint64_t bytes_per_s)
{
	int64_t cost_ns = (int64_t)((uint64_t)bytes * NS_PER_S / bytes_per_s), due = atomic_load(due_ns), next;

	do
		next = (due < now_ns - UNUSED_NS ? now_ns - UNUSED_NS : due) + cost_ns;
	while (!atomic_compare_exchange_weak(due_ns, &due, next));
}

bool rate_passes(struct rate *r, int64_t now_us)
{
	if (atomic_load(&r->due_ns) <= now_us * 1000)
		return true;
	atomic_store(&r->waited_ns, now_us * 1000);
	return false;
}

void rate_took(struct rate *r, int64_t now_us, uint32_t bytes)
{
	add(&r->due_ns, now_us * 1000, bytes, r->bytes_per_s);
}

int64_t rate_next_ms(const struct rate *r)
{
	return atomic_load(&r->due_ns) / NS_PER_MS + 1;
}

bool rate_takes_datagram(struct rate *r, int64_t now_us, uint32_t bytes, bool query)
{
	int64_t now_ns = now_us * 1000, waited_ns = atomic_load(&r->waited_ns), late_ns = query ? QUERY_BACKLOG_NS : BACKLOG_NS;
	bool beside = waited_ns && now_ns - waited_ns < WAITED_NS;

	if (atomic_load(&r->due_ns) - now_ns >= late_ns || (beside && atomic_load(&r->datagrams_due_ns) - now_ns >= late_ns))
		return false;
	add(&r->due_ns, now_ns, bytes, r->bytes_per_s);
	if (beside)
		add(&r->datagrams_due_ns, now_ns, bytes, (r->bytes_per_s + 1) / 2);
	return true;
}
