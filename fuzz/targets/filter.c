/* Purpose: fuzz target: programs of captures (core/packet_filter.h).
 *
 * How: the first byte is the number of instructions; they follow, then the frame, in pieces that the byte before it divides. A
 * program that is accepted must end, must say the same of the frame in one piece and in several, and must touch nothing else: both
 * have exactly their own memory.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "core/packet_filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct iovec piece(const uint8_t *bytes, size_t len)
{
	struct iovec own = {malloc(len ? len : 1), len};

	if (!own.iov_base)
		abort();
	memcpy(own.iov_base, bytes, len);
	return own;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct iovec program, whole, parts[3];
	size_t count = len > 1 ? size_min(data[0], (len - 1) / sizeof(struct packet_filter_insn)) : 0;
	size_t bytes = count * sizeof(struct packet_filter_insn), cut, half;

	if (!count)
		return 0;
	program = piece(data + 1, bytes);
	data += 1 + bytes;
	len -= 1 + bytes;
	if (packet_filter_check(program.iov_base, (uint32_t)count)) {
		cut = size_min(data[-1] % 64u, len);
		half = (len - cut) / 2;
		whole = piece(data, len);
		parts[0] = piece(data, cut);
		parts[1] = piece(data + cut, half);
		parts[2] = piece(data + cut + half, len - cut - half);
		if (packet_filter_run(program.iov_base, &whole, 1) != packet_filter_run(program.iov_base, parts, 3))
			abort();
		for (int i = 0; i < 3; i++)
			free(parts[i].iov_base);
		free(whole.iov_base);
	}
	free(program.iov_base);
	return 0;
}
