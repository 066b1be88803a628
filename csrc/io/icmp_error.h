/* Purpose: tell the guest with an ICMP error what a host socket reported. */
#ifndef PASTA_IO_ICMP_ERROR_H
#define PASTA_IO_ICMP_ERROR_H

#include "io/io.h"
#include "wire/icmp.h"

/* The ICMP error that a kernel turns into this errno, or the nearest. False: no router or peer reports such an error. */
bool icmp_error_from_errno(bool v4, int error, struct icmp_error *out);

/* The address from which the guest sees an error come. reporter: from the host's kernel, none if it reported the error itself.
 * host_peer, dest: the flow's other end, as the host and as the guest see it. */
struct addr icmp_error_reporter(const struct io *io, const struct addr *reporter, const struct addr *host_peer,
				const struct addr *dest);

/* Sends an error about a packet from guest to dest. transport: its transport header and the data that is known; transport_total:
 * its whole length after the IP header. from: the source of the error; one that is none or of the other family becomes dest. */
void icmp_error_send(struct io *io, const struct addr *from, const struct addr *guest, const struct addr *dest, uint8_t proto,
		     const uint8_t *transport, uint32_t transport_len, uint32_t transport_total, const struct icmp_error *error);

/* Answers a packet of the guest with the error for this errno, if there is one. Its source is the guest's gateway. */
void icmp_error_answer(struct io *io, const struct ip_view *ip, int error);

#endif
