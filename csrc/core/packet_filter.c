/* How: one step for each instruction. A frame may be in several pieces, so a load collects its bytes one by one.
 *
 * The language is that of "The BSD Packet Filter" (McCanne and Jacobson, 1993), with the division, remainder and exclusive or that
 * libpcap and the kernel have added. Memory starts as zeros. A shift by 32 bits or more gives 0.
 */
#include "core/packet_filter.h"

#include <linux/filter.h>
#include <string.h>

#include "base/bytes.h"

struct machine {
	uint32_t a, x, memory[BPF_MEMWORDS];
	const struct iovec *iov;
	int iovcnt;
	uint32_t len; /* of the frame */
};

static bool is_alu(uint16_t code)
{
	switch (BPF_OP(code)) {
	case BPF_ADD:
	case BPF_SUB:
	case BPF_MUL:
	case BPF_DIV:
	case BPF_MOD:
	case BPF_AND:
	case BPF_OR:
	case BPF_XOR:
	case BPF_LSH:
	case BPF_RSH:
		return !(code & ~(BPF_ALU | 0xf0 | BPF_X));
	case BPF_NEG:
		return code == (BPF_ALU | BPF_NEG);
	default:
		return false;
	}
}

static bool is_jump(uint16_t code)
{
	switch (BPF_OP(code)) {
	case BPF_JA:
		return code == (BPF_JMP | BPF_JA);
	case BPF_JEQ:
	case BPF_JGT:
	case BPF_JGE:
	case BPF_JSET:
		return !(code & ~(BPF_JMP | 0xf0 | BPF_X));
	default:
		return false;
	}
}

static bool is_load(uint16_t code)
{
	switch (code) {
	case BPF_LD | BPF_W | BPF_ABS:
	case BPF_LD | BPF_H | BPF_ABS:
	case BPF_LD | BPF_B | BPF_ABS:
	case BPF_LD | BPF_W | BPF_IND:
	case BPF_LD | BPF_H | BPF_IND:
	case BPF_LD | BPF_B | BPF_IND:
	case BPF_LD | BPF_W | BPF_LEN:
	case BPF_LD | BPF_IMM:
	case BPF_LD | BPF_MEM:
	case BPF_LDX | BPF_W | BPF_LEN:
	case BPF_LDX | BPF_IMM:
	case BPF_LDX | BPF_MEM:
	case BPF_LDX | BPF_B | BPF_MSH:
		return true;
	default:
		return false;
	}
}

static bool is_valid(const struct packet_filter_insn *i, uint32_t left)
{
	uint16_t op = BPF_OP(i->code);

	switch (BPF_CLASS(i->code)) {
	case BPF_LD:
	case BPF_LDX:
		return is_load(i->code) && (BPF_MODE(i->code) != BPF_MEM || i->k < BPF_MEMWORDS);
	case BPF_ST:
	case BPF_STX:
		return i->code == BPF_CLASS(i->code) && i->k < BPF_MEMWORDS;
	case BPF_ALU:
		if (BPF_SRC(i->code) == BPF_K &&
		    (((op == BPF_DIV || op == BPF_MOD) && !i->k) || ((op == BPF_LSH || op == BPF_RSH) && i->k > 31)))
			return false;
		return is_alu(i->code);
	case BPF_JMP:
		/* left: how many instructions follow */
		return is_jump(i->code) && (op == BPF_JA ? i->k < left : i->jt < left && i->jf < left);
	case BPF_RET:
		return i->code == (BPF_RET | BPF_K) || i->code == (BPF_RET | BPF_A);
	default: /* BPF_MISC */
		return i->code == (BPF_MISC | BPF_TAX) || i->code == (BPF_MISC | BPF_TXA);
	}
}

bool packet_filter_check(const struct packet_filter_insn *code, uint32_t count)
{
	if (!count || count > PACKET_FILTER_MAX)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (!is_valid(&code[i], count - 1 - i))
			return false;
	return BPF_CLASS(code[count - 1].code) == BPF_RET;
}

/* Loads size bytes in network order. False: not all of them are in the frame. */
static bool load(const struct machine *m, uint64_t at, uint32_t size, uint32_t *value)
{
	uint32_t got = 0;

	if (at + size > m->len)
		return false;
	for (int i = 0; i < m->iovcnt; i++) {
		const uint8_t *data = m->iov[i].iov_base;

		for (; at < m->iov[i].iov_len && size; at++, size--)
			got = got << 8 | data[at];
		at -= at < m->iov[i].iov_len ? at : m->iov[i].iov_len;
	}
	*value = got;
	return true;
}

static uint32_t size_of(uint16_t code)
{
	return BPF_SIZE(code) == BPF_W ? 4 : BPF_SIZE(code) == BPF_H ? 2 : 1;
}

/* False: the program ends without a match. */
static bool step_load(struct machine *m, const struct packet_filter_insn *i)
{
	uint32_t value = 0;

	switch (BPF_MODE(i->code)) {
	case BPF_ABS:
		if (!load(m, i->k, size_of(i->code), &value))
			return false;
		break;
	case BPF_IND:
		if (!load(m, (uint64_t)m->x + i->k, size_of(i->code), &value))
			return false;
		break;
	case BPF_MSH: /* four times the low half of a byte: the length of an IPv4 header */
		if (!load(m, i->k, 1, &value))
			return false;
		value = (value & 15) * 4;
		break;
	case BPF_LEN:
		value = m->len;
		break;
	case BPF_MEM:
		value = m->memory[i->k];
		break;
	default: /* BPF_IMM */
		value = i->k;
		break;
	}
	*(BPF_CLASS(i->code) == BPF_LDX ? &m->x : &m->a) = value;
	return true;
}

/* False: a division by zero. */
static bool step_alu(struct machine *m, const struct packet_filter_insn *i)
{
	uint32_t by = BPF_SRC(i->code) == BPF_X ? m->x : i->k, a = m->a;
	uint16_t op = BPF_OP(i->code);

	if ((op == BPF_DIV || op == BPF_MOD) && !by)
		return false;
	switch (op) {
	case BPF_ADD:
		a += by;
		break;
	case BPF_SUB:
		a -= by;
		break;
	case BPF_MUL:
		a *= by;
		break;
	case BPF_DIV:
		a /= by;
		break;
	case BPF_MOD:
		a %= by;
		break;
	case BPF_AND:
		a &= by;
		break;
	case BPF_OR:
		a |= by;
		break;
	case BPF_XOR:
		a ^= by;
		break;
	case BPF_LSH:
		a = by < 32 ? a << by : 0;
		break;
	case BPF_RSH:
		a = by < 32 ? a >> by : 0;
		break;
	default: /* BPF_NEG */
		a = 0 - a;
		break;
	}
	m->a = a;
	return true;
}

/* How many instructions to skip. */
static uint32_t step_jump(const struct machine *m, const struct packet_filter_insn *i)
{
	uint32_t with = BPF_SRC(i->code) == BPF_X ? m->x : i->k;
	bool yes;

	switch (BPF_OP(i->code)) {
	case BPF_JA:
		return i->k;
	case BPF_JEQ:
		yes = m->a == with;
		break;
	case BPF_JGT:
		yes = m->a > with;
		break;
	case BPF_JGE:
		yes = m->a >= with;
		break;
	default: /* BPF_JSET */
		yes = m->a & with;
		break;
	}
	return yes ? i->jt : i->jf;
}

uint32_t packet_filter_run(const struct packet_filter_insn *code, const struct iovec *iov, int iovcnt)
{
	struct machine m = {.iov = iov, .iovcnt = iovcnt};

	for (int i = 0; i < iovcnt; i++)
		m.len += (uint32_t)iov[i].iov_len;
	for (const struct packet_filter_insn *i = code;; i++) {
		switch (BPF_CLASS(i->code)) {
		case BPF_LD:
		case BPF_LDX:
			if (!step_load(&m, i))
				return 0;
			break;
		case BPF_ST:
			m.memory[i->k] = m.a;
			break;
		case BPF_STX:
			m.memory[i->k] = m.x;
			break;
		case BPF_ALU:
			if (!step_alu(&m, i))
				return 0;
			break;
		case BPF_JMP:
			i += step_jump(&m, i);
			break;
		case BPF_RET:
			return i->code == (BPF_RET | BPF_A) ? m.a : i->k;
		default:
			if (BPF_MISCOP(i->code) == BPF_TAX)
				m.x = m.a;
			else
				m.a = m.x;
			break;
		}
	}
}
