/* --check-host: what this host's KVM can do, and whether it only emulates. */
#pragma once

#include "base/err.h"

/* Prints the report to standard output, as JSON if asked. 0 or a negative errno. */
int check_host(int json, struct err *e);
