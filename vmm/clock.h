/*
 * The guest's time across a restore: --clock freeze|advance, docs/clocks.md.
 *
 * freeze: kvmclock and the TSC go on from where they stood. advance: both are
 * first moved on by the real time that has passed since the state was taken.
 */
#pragma once

#include <time.h>

#include "proto/manifest.h"
#include "proto/state.h"

/* As --clock has them. */
enum clock_mode { CLOCK_MODE_FREEZE, CLOCK_MODE_ADVANCE };

#define CLOCK_AWAY_MAX_S (100LL * 366 * 24 * 3600) /* more than that is no time away */

/*
 * Nanoseconds of real time from when the state was taken until `now`; 0 where
 * the host's clock is behind it. -ERANGE: the manifest's clock is none.
 */
int64_t clock_away(const SnapshotManifest *m, const struct timespec *now);

/*
 * Moves the clocks of a state that is not yet loaded on by ns: kvmclock, and by
 * its own frequency the TSC of each vCPU. A TSC deadline that has passed by then
 * fires at once. The state's sizes are checked before (vm_check_state()).
 */
void clock_advance(VmState *s, uint64_t ns);
