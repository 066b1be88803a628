/* Purpose: how long what is open stays when its ends say nothing: the times that a user meets. docs/reliability.md tells them all,
 * tests/csrc/test_lifetimes.py tests them. The times of retransmissions and of probes are TCP's own (proto/tcp_private.h). */
#ifndef PASTA_CORE_TIMEOUTS_H
#define PASTA_CORE_TIMEOUTS_H

#define TCP_USER_TIMEOUT_MS 120000 /* RFC 9293, 3.8.3: R2, at least 100 s; also if the guest still sends other segments */
#define TCP_HALF_CLOSED_MS 60000   /* then the guest is probed: does it still want the rest? */
#define TCP_IDLE_MS 7440000        /* then too. RFC 5382, REQ-5: 2 hours 4 minutes */

#define UDP_TIMEOUT_MS 120000        /* RFC 4787, 4.3: two minutes at least */
#define UDP_STREAM_TIMEOUT_MS 300000 /* with more than one datagram each way */
#define UDP_DNS_TIMEOUT_MS 10000     /* after an answer: a DNS client has a port for each query (RFC 5452) */

#define ICMP_TIMEOUT_MS 30000

#define REASSEMBLY_TIMEOUT_MS 30000 /* ipfrag_time of Linux */

#endif
