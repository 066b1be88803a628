/* ICMP errors to the guest: what a host socket reported, put back into a packet. */
#ifndef PASTA_IO_ICMP_ERROR_H
#define PASTA_IO_ICMP_ERROR_H

#include "io/io.h"
#include "wire/icmp.h"

/* The error of which a kernel makes this errno, or the nearest; false: no router or peer reports that. */
bool icmp_error_from_errno(bool v4, int error, struct icmp_error *out);

/* Under which address the guest knows who reported an error: reporter as the host's kernel names it, none if that was the
 * kernel itself; remote and shown are the two names of the flow's other end. */
struct addr icmp_error_reporter(const struct io *io, const struct addr *reporter, const struct addr *remote,
				const struct addr *shown);

/* Sends an error about a packet that the guest sent from guest to remote: transport is its header and as much data as is
 * known, transport_total the length that the packet had after its IP header. from: who reports it. */
void icmp_error_send(struct io *io, const struct addr *from, const struct addr *guest, const struct addr *remote, uint8_t proto,
		     const uint8_t *transport, uint32_t transport_len, uint32_t transport_total, const struct icmp_error *error);

/* Answers a whole packet of the guest with the error of which a kernel makes this errno, if there is one, from the guest's gateway. */
void icmp_error_answer(struct io *io, const struct ip_view *ip, int error);

#endif
