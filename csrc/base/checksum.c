/* Owns the summing loop. Words are added 32 bits at a time into 64-bit shards, which cannot overflow for any frame
 * (2^32 words) and which compilers turn into vector code; ones' complement addition is associative and independent of
 * byte order (RFC 1071, 2), so one fold at the end is enough. Rejected: add-with-carry in assembly, as fast for the
 * sizes that matter and not portable.
 */
#include "base/checksum.h"

#include <string.h>

uint64_t csum_add(const void *p, size_t len, uint64_t sum)
{
	const uint8_t *b = p;
	uint64_t shard[4] = {0, 0, 0, 0};
	uint32_t word;
	uint16_t half;

	for (; len >= 64; b += 64, len -= 64) {
		uint32_t w[16];

		memcpy(w, b, sizeof(w));
		for (int i = 0; i < 16; i++)
			shard[i % 4] += w[i];
	}
	for (; len >= 4; b += 4, len -= 4) {
		memcpy(&word, b, 4);
		sum += word;
	}
	if (len >= 2) {
		memcpy(&half, b, 2);
		sum += half;
		b += 2;
		len -= 2;
	}
	if (len) {
		half = 0;
		memcpy(&half, b, 1);
		sum += half;
	}
	for (int i = 0; i < 4; i++)
		sum += (shard[i] & 0xffffffff) + (shard[i] >> 32);
	return sum;
}
