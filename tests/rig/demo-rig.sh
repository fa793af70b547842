#!/usr/bin/env bash
# The demonstration on an emulated machine, for hosts that have no fast KVM.
# Options are run.sh's.
set -euo pipefail
cd "$(dirname "$0")"
exec ./run.sh --kernel 6.12 --timeout 600 "$@" demo.sh
