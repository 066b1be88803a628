/* How: 32-bit words are added to four 64-bit lanes, which compilers turn into vector code. A lane overflows after 2^32 words, far
 * beyond any frame. Ones' complement addition is associative and independent of byte order (RFC 1071, 2), so one fold at the end
 * is enough.
 *
 * Where the processor has AVX2, long runs of bytes are summed by the same code, compiled for it.
 *
 * Rejected: add-with-carry in assembly, which is not portable, and no faster for the sizes that matter.
 */
#include "base/checksum.h"

#include <string.h>

#define LONG_BYTES 512 /* below this the check for AVX2 costs more than it gains */

static inline __attribute__((always_inline)) uint64_t add(const void *p, size_t len, uint64_t sum)
{
	const uint8_t *b = p;
	uint64_t lane[4] = {0, 0, 0, 0};
	uint32_t word;
	uint16_t half;

	for (; len >= 64; b += 64, len -= 64) {
		uint32_t w[16];

		memcpy(w, b, sizeof(w));
		for (int i = 0; i < 16; i++)
			lane[i % 4] += w[i];
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
		sum += (lane[i] & 0xffffffff) + (lane[i] >> 32);
	return sum;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static uint64_t add_avx2(const void *p, size_t len, uint64_t sum)
{
	return add(p, len, sum);
}
#endif

uint64_t csum_add(const void *p, size_t len, uint64_t sum)
{
#ifdef __x86_64__
	if (len >= LONG_BYTES && __builtin_cpu_supports("avx2"))
		return add_avx2(p, len, sum);
#endif
	return add(p, len, sum);
}
