/*
 * stateclock STATE: the clocks of a state.bin in seconds: kvmclock, and the TSC
 * of the first vCPU; behind them, by how many ticks the others are apart from it.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/state.h"

#define MSR_TSC 0x10

int main(int argc, char **argv)
{
	uint8_t *buf = malloc(STATE_MAX);
	FILE *f = argc == 2 ? fopen(argv[1], "rb") : NULL;
	struct kvm_clock_data clock;
	VmState *s;
	double tsc = 0;

	if (!f || !buf || proto_state_decode(buf, fread(buf, 1, STATE_MAX, f), &s, NULL) < 0 ||
	    s->kvm->clock.len != sizeof(clock)) {
		fprintf(stderr, "usage: stateclock STATE\n");
		return 1;
	}
	memcpy(&clock, s->kvm->clock.data, sizeof(clock));
	for (size_t i = 0; i < s->vcpu[0]->n_msr; i++)
		if (s->vcpu[0]->msr[i]->index == MSR_TSC && s->vcpu[0]->tsc_khz)
			tsc = (double)s->vcpu[0]->msr[i]->data / s->vcpu[0]->tsc_khz / 1000;
	printf("%.6f %.6f", (double)clock.clock / 1e9, tsc);
	for (size_t i = 1; i < s->n_vcpu; i++)
		printf(" %lld", (long long)s->vcpu[i]->tsc_apart);
	putchar('\n');
	fclose(f);
	free(buf);
	proto_state_free(s);
	return 0;
}
