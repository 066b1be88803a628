"""The pure folders of the core (base, wire, core) as a cffi module, so that each function can be asked directly.

Static inline functions are reached through one-line wrappers named x_NAME. Nothing here is part of the program.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import cffi
import counted

ROOT = Path(__file__).resolve().parents[2]

CDEF = """
typedef struct { uint32_t v; } seq_t;
struct addr { uint8_t b[16]; };
struct endpoint { struct addr addr; uint16_t port; };
struct siphash_key { uint64_t k[2]; };
uint64_t csum_add(const void *p, size_t len, uint64_t sum);
uint16_t x_csum_fold(uint64_t sum);
uint64_t siphash(const struct siphash_key *key, const void *data, size_t len);
bool x_seq_lt(uint32_t a, uint32_t b);
bool x_seq_le(uint32_t a, uint32_t b);
uint32_t x_seq_diff(uint32_t b, uint32_t a);
uint32_t x_seq_max(uint32_t a, uint32_t b);
bool x_addr_is_v4(const struct addr *a);
bool addr_is_loopback(const struct addr *a);
bool addr_is_unspecified(const struct addr *a);
bool addr_is_multicast(const struct addr *a);
bool addr_is_linklocal6(const struct addr *a);
bool addr_is_unicast_remote(const struct addr *a);
struct addr addr_linklocal6_of(const uint8_t mac[6]);

struct work { struct work *prev, *next; bool queued; };
struct worklist { struct work *head, *tail; uint32_t count; };
struct run_queue { struct worklist list; ...; };
void x_worklist_add(struct worklist *l, struct work *w);
void x_worklist_remove(struct worklist *l, struct work *w);
struct work *x_run_queue_next(struct run_queue *l, uint32_t per_turn, uint32_t *steps);
void x_run_queue_add(struct run_queue *l, struct work *w);
void x_run_queue_remove(struct run_queue *l, struct work *w);
#define SCHED_TURN_FRAMES ...
#define SCHED_QUANTUM_MAX ...
#define SCHED_QUANTUM_MIN ...
#define SCHED_ROUND ...

struct dns_copies { bool wanted; uint8_t *at; uint32_t used; ...; };
#define DNS_STREAMS ...
void dns_copies_add_piece(struct dns_copies *c, uint32_t flow, uint32_t generation, uint64_t position, const uint8_t *data,
                          uint32_t len);
#define DNS_COPIES_BYTES ...
#define DNS_COPY_MAX_BYTES ...
int dns_copies_want(struct dns_copies *c, bool wanted);
void dns_copies_free(struct dns_copies *c);
void dns_copies_add(struct dns_copies *c, const uint8_t *message, uint32_t len);
uint32_t dns_copies_take(struct dns_copies *c, uint8_t *out);

struct log_line { uint32_t level; uint32_t len; char text[240]; };
struct log { uint32_t level; uint32_t head, count; uint64_t lost; ...; };
bool log_take(struct log *log, const struct log_line **line);
void x_log_add(struct log *log, int level, const char *text);

struct ip_view { struct addr src, dst; const uint8_t *header; const uint8_t *payload; uint32_t payload_len; uint32_t header_len;
                 uint8_t proto, ttl, tos; bool v4, df, fragment; };
bool ip_parse(const uint8_t *packet, size_t len, bool v4, struct ip_view *view);
uint16_t ip_emit(uint8_t *packet, const struct addr *src, const struct addr *dst, uint8_t proto, uint8_t ttl, uint8_t tos, bool df,
                 uint32_t payload_len);
uint64_t ip_pseudo_sum(const struct addr *src, const struct addr *dst, uint8_t proto, uint32_t payload_len);
bool ip_transport_checksum_ok(const struct ip_view *view);
struct tcp_view { const uint8_t *payload; uint32_t payload_len; seq_t seq, ack; uint16_t src_port, dst_port, window;
                  uint8_t flags; uint16_t mss; uint8_t wscale; bool sack_permitted; };
bool tcp_parse(const uint8_t *segment, uint32_t len, struct tcp_view *view);
uint16_t x_tcp_emit(uint8_t *segment, uint16_t sport, uint16_t dport, uint32_t seq, uint32_t ack, uint8_t flags, uint16_t window,
                    uint16_t mss, uint8_t wscale);
struct udp_view { const uint8_t *payload; uint32_t payload_len; uint16_t src_port, dst_port; };
bool x_udp_parse(const uint8_t *datagram, uint32_t len, bool v4, struct udp_view *view);
uint16_t x_udp_emit(uint8_t *datagram, uint16_t sport, uint16_t dport, uint32_t payload_len);
struct icmp_view { const uint8_t *payload; uint32_t payload_len; uint16_t id, sequence; uint8_t type, code; };
bool x_icmp_parse(const uint8_t *message, uint32_t len, struct icmp_view *view);
struct icmp_error { uint8_t type, code; uint32_t info; };
uint16_t icmp_emit_error(uint8_t *message, const struct addr *src, const struct addr *dst, const struct icmp_error *error,
                         const uint8_t *quote, uint32_t quote_len);

struct flow_key { struct addr guest, dest; uint16_t guest_port, dest_port; };
struct flow { struct flow_key key; uint32_t next, hash, index, generation; };
struct flow_table { uint32_t bucket_mask, object_bytes, limit, used, made; ...; };
int flow_table_init(struct flow_table *t, uint32_t object_bytes, uint32_t limit, const struct siphash_key *key);
void flow_table_free(struct flow_table *t);
struct flow *flow_find(const struct flow_table *t, const struct flow_key *key);
struct flow *flow_add(struct flow_table *t, const struct flow_key *key);
void flow_remove(struct flow_table *t, struct flow *f);
struct flow *flow_at(const struct flow_table *t, uint32_t index);
struct flow *flow_at_generation(const struct flow_table *t, uint32_t index, uint32_t generation);

struct timer { int64_t deadline_ms; uint32_t slot; };
struct timer_heap { uint32_t count, space; ...; };
void timer_heap_free(struct timer_heap *h);
int timer_heap_reserve(struct timer_heap *h, uint32_t count);
void timer_set(struct timer_heap *h, struct timer *t, int64_t deadline_ms);
void timer_stop(struct timer_heap *h, struct timer *t);
struct timer *timer_due(struct timer_heap *h, int64_t now_ms);
int64_t x_timer_next_ms(const struct timer_heap *h);

struct flood_limit { ...; };
enum handshake_kind { HANDSHAKE_NONE, HANDSHAKE_PROXY_V2, HANDSHAKE_SOCKS5, HANDSHAKE_HTTP };
enum handshake_state { HANDSHAKE_GOES_ON, HANDSHAKE_DONE, HANDSHAKE_REFUSED };
struct handshake_ends { struct endpoint from, to; const char *name; uint32_t name_len; };
struct handshake_auth { uint8_t user_len, password_len; char user[255], password[255]; };
struct handshake { uint8_t kind, state; uint16_t code; ...; };
void handshake_begin(struct handshake *h, enum handshake_kind kind, const struct handshake_ends *ends,
                     const struct handshake_auth *auth);
const uint8_t *handshake_says(const struct handshake *h, uint32_t *len);
void handshake_sent(struct handshake *h, uint32_t len);
uint32_t handshake_take(struct handshake *h, const uint8_t *bytes, uint32_t len);
int handshake_error(const struct handshake *h);
struct rate { uint64_t bytes_per_s; ...; };
uint32_t rate_share_bytes(const struct rate *r);
bool rate_passes(struct rate *r, int64_t now_us);
void rate_took(struct rate *r, int64_t now_us, uint32_t bytes);
int64_t rate_next_ms(const struct rate *r);
bool rate_takes_datagram(struct rate *r, int64_t now_us, uint32_t bytes, bool query);
bool x_flood_limit_take(struct flood_limit *l, int64_t now_ms, uint32_t per_s, uint32_t burst);

struct addr_list { uint32_t count; ...; };
struct address_mapping { struct addr host[2]; struct addr guest_seen[3]; uint32_t guest_scope6; struct addr gateway[2];
                struct addr map_host_loopback[2]; struct addr map_guest_addr[2];
                struct addr dns_forward[2]; struct addr dns_host[2]; bool dns_tls;
                struct addr_list guest_addrs, virtual_addrs, barred_sources; bool multicast, broadcast; ...; };
bool mapping_broadcast(const struct address_mapping *p, uint16_t port);
bool mapping_outbound(const struct address_mapping *p, uint8_t proto, const struct endpoint *guest_dst, struct endpoint *host_dst);
bool mapping_inbound_source(const struct address_mapping *p, const struct addr *host_src, struct addr *guest_src);
int addr_list_add(struct addr_list *l, const struct addr *a);
bool mapping_is_source(const struct address_mapping *p, const struct addr *a);
bool mapping_is_virtual(const struct address_mapping *p, const struct addr *a);
const struct addr *mapping_guest_addr(const struct address_mapping *p, const struct addr *guest_src);
const struct addr *mapping_local_addr(const struct address_mapping *p, bool v4);
void mapping_free(struct address_mapping *p);

int posix_memalign(void **at, size_t alignment, size_t size);
void free(void *p);
struct guest_region { uint64_t guest, front_end, bytes; uint8_t *at; };
struct guest_memory { uint32_t count; struct guest_region region[8]; };
bool guest_memory_add(struct guest_memory *m, const struct guest_region *region);
uint8_t *guest_memory_at(const struct guest_memory *m, uint64_t address, uint32_t *len);
uint8_t *guest_memory_of_front_end(const struct guest_memory *m, uint64_t address, uint64_t len);
struct iovec { void *iov_base; size_t iov_len; ...; };
struct virtq_addresses { uint64_t descriptors, available, used; };
struct virtq { uint16_t size, taken, offered, given, told; const char *broken; ...; };
struct virtq_chain { uint16_t head; uint32_t parts, bytes; };
enum virtq_taken { VIRTQ_TAKEN, VIRTQ_EMPTY, VIRTQ_NO_ROOM, VIRTQ_BROKEN };
#define VIRTQ_SIZE_MAX ...
#define VIRTQ_IOVECS_MAX ...
bool virtq_start(struct virtq *q, const struct guest_memory *m, uint16_t size, const struct virtq_addresses *at, uint16_t base,
                 bool event_index);
enum virtq_taken virtq_take(struct virtq *q, const struct guest_memory *m, bool writable, struct iovec *iov, uint32_t room,
                            struct virtq_chain *chain);
void virtq_untake(struct virtq *q, uint16_t count);
void virtq_give(struct virtq *q, uint16_t head, uint32_t written);
bool virtq_tell(struct virtq *q);
bool virtq_wait(struct virtq *q);
void virtq_poll(struct virtq *q);

struct reassembly { ...; };
void reassembly_free(struct reassembly *r);
int x_reassembly_add(struct reassembly *r, const struct ip_view *fragment, int64_t now_ms, uint8_t **packet, uint32_t *len);

struct follow_seen { uint64_t hashes[512]; uint32_t count; bool overrun; };
struct follow_events { struct siphash_key key; struct follow_seen seen, harmless; };
bool follow_events_note(struct follow_events *e, uint8_t *data, size_t len);
void follow_events_planned(struct follow_events *e, bool changed);

struct egress_verdict { bool allow; uint8_t reason; uint16_t rule; uint8_t verify; };
struct egress;
int egress_new(const uint8_t *policy, uint32_t len, const struct siphash_key *key, struct egress **out);
int egress_replace(struct egress *e, const uint8_t *policy, uint32_t len);
int egress_regroup(struct egress *e, const uint8_t *policy, uint32_t len);
void egress_free(struct egress *e);
struct egress_verdict egress_verdict(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest,
                                     uint16_t port, int64_t now_ms);
struct egress_verdict egress_splice_verdict(struct egress *e, uint8_t proto, const struct addr *host_dest, uint16_t port);
struct egress_verdict egress_name_verdict(struct egress *e, const char *name, uint32_t len);
struct egress_verdict egress_address_verdict(struct egress *e, const char *name, uint32_t len, const struct addr *a);
uint32_t egress_named(struct egress *e, const char *name, uint32_t len);
int egress_pin(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms, int64_t until_ms);
uint32_t egress_pinned(struct egress *e, const struct addr *a, char *out, uint32_t space);
struct egress_verdict egress_verify(struct egress *e, uint8_t verify, const struct addr *dest, const struct addr *host_dest,
                                    uint16_t port, const char *name, uint32_t len);
void egress_note_named(struct egress *e, const struct addr *dest, uint16_t port, const char *name, uint32_t len);
uint32_t egress_noted_name(struct egress *e, const struct addr *dest, uint16_t port, char *out);
uint8_t egress_verifies(struct egress *e, uint16_t rule);
bool egress_ask_again(struct egress *e, uint8_t proto, const struct addr *dest, const struct addr *host_dest, uint16_t port,
                      int64_t now_ms);
uint32_t egress_take_question(struct egress *e, struct addr *a, char *name);
void egress_answered(struct egress *e, const struct addr *a, const char *name, uint32_t len, int64_t now_ms);

enum server_name_found { SERVER_NAME_MORE, SERVER_NAME_FOUND, SERVER_NAME_NONE, SERVER_NAME_WRONG };
struct server_name { char text[253]; uint8_t len; };
enum server_name_found server_name_in_hello(const uint8_t *bytes, uint32_t len, struct server_name *out);
enum server_name_found server_name_in_request(const uint8_t *bytes, uint32_t len, struct server_name *out);
"""

SOURCE = """
#include <stdlib.h>
#include "base/addr.h"
#include "base/checksum.h"
#include "base/log.h"
#include "base/seq.h"
#include "base/siphash.h"
#include "core/flood_limit.h"
#include "core/handshake.h"
#include "core/rate.h"
#include "core/dns_copies.h"
#include "core/egress.h"
#include "core/flow.h"
#include "core/follow_events.h"
#include "core/mapping.h"
#include "core/reassembly.h"
#include "core/timer.h"
#include "core/scheduling.h"
#include "wire/icmp.h"
#include "wire/ip.h"
#include "wire/server_name.h"
#include "wire/tcp.h"
#include "wire/udp.h"
#include "wire/virtqueue.h"
static uint16_t x_csum_fold(uint64_t s) { return csum_fold(s); }
static bool x_seq_lt(uint32_t a, uint32_t b) { return seq_lt(seq(a), seq(b)); }
static bool x_seq_le(uint32_t a, uint32_t b) { return seq_le(seq(a), seq(b)); }
static uint32_t x_seq_diff(uint32_t b, uint32_t a) { return seq_diff(seq(b), seq(a)); }
static void x_worklist_add(struct worklist *l, struct work *w) { worklist_add(l, w); }
static void x_worklist_remove(struct worklist *l, struct work *w) { worklist_remove(l, w); }
static struct work *x_run_queue_next(struct run_queue *q, uint32_t most, uint32_t *n) { return run_queue_next(q, most, n); }
static void x_run_queue_add(struct run_queue *l, struct work *w) { run_queue_add(l, w); }
static void x_run_queue_remove(struct run_queue *l, struct work *w) { run_queue_remove(l, w); }
static uint32_t x_seq_max(uint32_t a, uint32_t b) { return seq_max(seq(a), seq(b)).v; }
static bool x_addr_is_v4(const struct addr *a) { return addr_is_v4(a); }
static void x_log_add(struct log *log, int level, const char *text) { log_add(log, level, "%s", text); }
static uint16_t x_tcp_emit(uint8_t *s, uint16_t sp, uint16_t dp, uint32_t sq, uint32_t ak, uint8_t f,
                           uint16_t w, uint16_t m, uint8_t ws)
{ return tcp_emit(s, sp, dp, seq(sq), seq(ak), f, w, m, ws); }
static bool x_udp_parse(const uint8_t *d, uint32_t l, bool v4, struct udp_view *v)
{ l = udp_bytes(d, l, v4); if (l) *v = udp_parse(d, l); return l; }
static uint16_t x_udp_emit(uint8_t *d, uint16_t s, uint16_t t, uint32_t l) { return udp_emit(d, s, t, l); }
static bool x_icmp_parse(const uint8_t *m, uint32_t l, struct icmp_view *v) { return icmp_parse(m, l, v); }
static int64_t x_timer_next_ms(const struct timer_heap *h) { return timer_next_ms(h); }
static bool x_flood_limit_take(struct flood_limit *l, int64_t now, uint32_t p, uint32_t n)
{ return flood_limit_take(l, now, p, n); }
static int x_reassembly_add(struct reassembly *r, const struct ip_view *f, int64_t now, uint8_t **p, uint32_t *l)
{ return (int)reassembly_add(r, f, now, p, l); }
"""


@functools.cache
def build() -> Any:
    """The module, with `ffi` and `lib`, built once per process; extra compiler flags from PASTA_TEST_CFLAGS."""
    also, flags = counted.build("internals"), os.environ.get("PASTA_TEST_CFLAGS", "").split()
    own = sorted(str(path) for folder in ("base", "wire", "core") for path in (ROOT / "csrc" / folder).glob("*.c"))
    builder = cffi.FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "_internals",
        SOURCE,
        sources=[*own, *also.sources],
        include_dirs=[str(ROOT / "csrc")],
        extra_compile_args=["-std=c11", "-D_GNU_SOURCE", "-g", *also.compile_args, *flags],
        extra_link_args=[*also.link_args, *flags],
    )
    return counted.load("_internals", builder.compile(tmpdir=also.directory))
