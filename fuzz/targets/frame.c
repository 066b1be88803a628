/* Purpose: fuzz target: sends one frame of any bytes to a core in the simulated kernel.
 *
 * How: bits of the first byte choose the configuration: 0 virtio header, 1 IPv6 off, 2 IPv4 off, 3 correct the checksum of the IPv4
 * header, so that mutations get further, 4 virtio header for tunnels.
 */
#include <stdlib.h>

#include "base/checksum.h"
#include "guest.h"
#include "kernel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void right_header(uint8_t *frame, size_t len)
{
	size_t header = len > ETH_HLEN ? (size_t)(frame[ETH_HLEN] & 15) * 4 : 0;
	uint16_t sum;

	if (header < IP4_HLEN || len < ETH_HLEN + header || eth_type(frame) != ETH_TYPE_IPV4)
		return;
	memset(frame + ETH_HLEN + 10, 0, 2);
	sum = (uint16_t)~csum_fold(csum_add(frame + ETH_HLEN, header, 0));
	memcpy(frame + ETH_HLEN + 10, &sum, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	uint32_t flags = PLANE_TCP | PLANE_UDP | PLANE_ICMP, skip;
	uint8_t *frame;

	if (len < 2)
		return 0;
	flags |= data[0] & 16 ? PLANE_VNET_HDR | PLANE_USO | PLANE_TUNNELS : data[0] & 1 ? PLANE_VNET_HDR | PLANE_USO : 0;
	flags |= (data[0] & 2 ? 0 : PLANE_IPV6) | (data[0] & 4 ? 0 : PLANE_IPV4);
	guest_start(flags, 1500);
	frame = malloc(--len);
	REQUIRE(frame);
	memcpy(frame, data + 1, len);
	skip = guest.header_bytes;
	if (data[0] & 8 && len > skip)
		right_header(frame + skip, len - skip);
	kernel_frame(frame, (uint32_t)len);
	free(frame);
	guest_run();
	check_flows();
	kernel.finale = true;
	guest_run();
	REQUIRE(!guest.plane->shard[0]->tcp.flows.used && !guest.plane->shard[0]->udp.flows.used &&
			!guest.plane->shard[0]->icmp.flows.used,
		"flows end in bounded time");
	guest_stop();
	return 0;
}
