/* The guest's time across a restore: see clock.h. */
#include "clock.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "msr.h"

int64_t clock_away(const SnapshotManifest *m, const struct timespec *now)
{
	const Timestamp *then = m->clock;
	int64_t s;

	if (!then || then->nanos < 0 || then->nanos > 999999999 ||
	    __builtin_sub_overflow((int64_t)now->tv_sec, then->seconds, &s) || s > CLOCK_AWAY_MAX_S)
		return -ERANGE;
	if (s < 0 || (s == 0 && now->tv_nsec < then->nanos))
		return 0;
	return s * 1000000000 + now->tv_nsec - then->nanos;
}

static void advance_tsc(VcpuState *v, uint64_t ns)
{
	const uint64_t ticks = (uint64_t)((unsigned __int128)ns * v->tsc_khz / 1000000);

	for (size_t i = 0; i < v->n_msr; i++)
		if (v->msr[i]->index == MSR_TSC)
			v->msr[i]->data += ticks;
}

void clock_advance(VmState *s, uint64_t ns)
{
	struct kvm_clock_data clock;

	memcpy(&clock, s->kvm->clock.data, sizeof(clock));
	clock.clock += ns;
	memcpy(s->kvm->clock.data, &clock, sizeof(clock));
	for (size_t i = 0; i < s->n_vcpu; i++)
		advance_tsc(s->vcpu[i], ns);
}
