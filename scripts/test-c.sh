#!/usr/bin/env bash
# Runs the C tests of one build folder (default build/release): unit programs (the relay's too), packet
# scripts, simulation with the committed seeds. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/release}
# Vectors from outside, where NP_VECTORS names their folder: as JSON there, flat
# for the tests in the build folder. Without them test_wycheproof skips and says so.
if [[ -n ${NP_VECTORS:-} ]]; then
  mkdir -p "$build/vectors"
  go run ./scripts/vectors "$build/vectors" "$NP_VECTORS"/wycheproof_*.json
  export NP_VECTORS_FLAT=$build/vectors
fi
ran=0
for t in "$build"/csrc/test/unit/test_* "$build"/scripts/relay/test_*; do
  [[ -x $t && ! -d $t && $t != *.o && $t != *.d ]] || continue
  log=$(mktemp)
  if "$t" >"$log" 2>&1; then
    printf 'ok   %s\n' "$(basename "$t")"
    grep -h '^skipped: ' "$log" || true
  else
    cat "$log" >&2
    echo "FAIL $t" >&2
    exit 1
  fi
  rm -f "$log"
  ran=$((ran + 1))
done
if [[ -x $build/np-script ]]; then
  "$build/np-script" csrc/test/script/*/*.pkt
  ran=$((ran + 1))
fi
if [[ -x $build/np-sim ]]; then
  "$build/np-sim" --seeds csrc/test/sim/seeds.txt
  # one big transfer there and back under loss and reordering: 1 GiB, less where sanitizers slow it down
  bytes=$((1 << 30))
  [[ $build == build/release ]] || bytes=$((1 << 25))
  "$build/np-sim" --seed 1 --bytes "$bytes"
  ran=$((ran + 1))
fi
((ran > 0)) || { echo "test-c: nothing to run in $build; build first" >&2; exit 1; }
echo "test-c: $ran programs passed"
