/* Purpose: connections of the guest that go to an inspector or a proxy (--redirect, --proxy).
 *
 * How: the flow stays in CONNECTING until the handshake (core/handshake.h) is done. So the guest hears a yes only after the proxy's,
 * and a no as it would hear that of the destination itself. Bytes are looked at before they are taken: what is behind the answer
 * belongs to the guest. There is no way back to a direct connection.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "proto/tcp_private.h"

#define ANSWER_PART_BYTES 4096

bool tcp_detour_begin(struct io *io, struct tcp_flow *f, const struct detour *detour)
{
	const struct flow_key *key = &f->flow.key;
	struct handshake_ends ends = {.from = {key->guest, key->guest_port}, .to = {key->dest, key->dest_port}};
	char name[EGRESS_NAME_MAX], text[ADDR_STR_LEN];
	bool several = false;

	if (detour->kind == HANDSHAKE_SOCKS5 || detour->kind == HANDSHAKE_HTTP) {
		ends.name = name;
		ends.name_len =
			egress_last_name(io->egress, IPPROTO_TCP, &key->dest, key->dest_port, loop_boot_ms(), name, &several);
	}
	f->handshake = malloc(sizeof(*f->handshake));
	if (!f->handshake)
		return false;
	handshake_begin(f->handshake, detour->kind, &ends, &io->detours->auth);
	if (several && log_due(&io->names_logged_ms, io->loop->now_ms))
		log_add(io->log, LOG_LEVEL_INFO, "--proxy: several names have led to %s: it is asked for the last one, %.*s",
			addr_str(&key->dest, text), (int)ends.name_len, name);
	return true;
}

/* The answer was a no, or none. */
static void refused(struct tcp *t, struct io *io, struct tcp_flow *f, int error)
{
	const struct handshake *h = f->handshake;
	char text[TCP_FLOW_STR_BYTES];

	if (log_due(&io->detour_logged_ms, io->loop->now_ms)) {
		tcp_flow_str(io, f, text);
		if (h->code)
			log_add(io->log, LOG_LEVEL_WARNING, "TCP %s: the proxy refuses: %s %u", text,
				h->kind == HANDSHAKE_HTTP ? "HTTP status" : "SOCKS reply", h->code);
		else
			log_add(io->log, LOG_LEVEL_WARNING, "TCP %s: what answers there is no proxy of this kind", text);
	}
	tcp_fail_connect(t, io, f, REASON_proxy, error);
}

void tcp_detour_failed(struct tcp *t, struct io *io, struct tcp_flow *f, int error)
{
	char text[TCP_FLOW_STR_BYTES];

	if (log_due(&io->detour_logged_ms, io->loop->now_ms))
		log_add(io->log, LOG_LEVEL_WARNING, "TCP %s: the proxy or inspector cannot be reached: %s",
			tcp_flow_str(io, f, text), strerror(error));
	tcp_fail_connect(t, io, f, REASON_proxy, error == EPIPE ? ECONNREFUSED : error); /* EPIPE: it closed, then reset */
}

/* Sends what is to be said. 0; -EAGAIN: later; or another -errno. */
static int say(struct tcp_flow *f)
{
	const uint8_t *bytes;
	uint32_t len;

	while (bytes = handshake_says(f->handshake, &len), len) {
		ssize_t n = send(f->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno != EINTR)
			return -errno;
		handshake_sent(f->handshake, n < 0 ? 0 : (uint32_t)n);
	}
	return 0;
}

/* Takes what there is of the answer. 0; -EAGAIN: no more is there; -ECONNREFUSED: the stream has ended; or another -errno. */
static int hear(struct io *io, struct tcp_flow *f)
{
	ssize_t n = recv(f->fd, io->scratch, ANSWER_PART_BYTES, MSG_PEEK | MSG_DONTWAIT);
	uint32_t taken;

	if (n <= 0)
		return n == 0 ? -ECONNREFUSED : errno == EINTR ? 0 : -errno;
	taken = handshake_take(f->handshake, io->scratch, (uint32_t)n);
	if (taken && recv(f->fd, NULL, taken, MSG_TRUNC | MSG_DONTWAIT) != (ssize_t)taken)
		return -EIO;
	return 0;
}

void tcp_detour_reached(struct tcp *t, struct io *io, struct tcp_flow *f)
{
	int rc = 0;

	while (!rc && f->handshake->state == HANDSHAKE_GOES_ON) {
		rc = say(f);
		if (!rc && f->handshake->state == HANDSHAKE_GOES_ON)
			rc = hear(io, f);
	}
	if (f->handshake->state == HANDSHAKE_REFUSED) {
		refused(t, io, f, handshake_error(f->handshake));
	} else if (rc == -EAGAIN) {
		return;
	} else if (rc) {
		refused(t, io, f, ECONNREFUSED);
	} else {
		free(f->handshake);
		f->handshake = NULL;
		f->flags |= TCPF_READABLE; /* a server that speaks first may have done so already */
		tcp_connected(t, io, f);
	}
}
