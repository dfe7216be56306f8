#!/usr/bin/env bash
# Runs every fuzz target, C and Go, for a number of seconds each (default 10); "build"
# instead of a number compiles Go's and runs nothing.
# What a run finds is left in build/fuzz; a new corpus entry is committed with its mend.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-10}
work=build/fuzz
mkdir -p "$work"
n=0
[[ $seconds == build ]] || for src in csrc/test/fuzz/fuzz_*.c; do
  [[ -e $src ]] || continue
  name=$(basename "$src" .c)
  corpus=$work/corpus/$name
  mkdir -p "$corpus"
  seeds=csrc/test/fuzz/corpus/${name#fuzz_}
  [[ -d $seeds ]] || seeds=csrc/test/fuzz/corpus/$name
  args=("$corpus")
  [[ -d $seeds ]] && args+=("$seeds")
  echo "fuzz $name ${seconds}s"
  if ! "build/fuzz/csrc/test/fuzz/$name" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 \
    -artifact_prefix="$work/$name-" "${args[@]}" >"$work/$name.log" 2>&1; then
    tail -n 40 "$work/$name.log" >&2
    echo "fuzz: $name found something; input in $work/$name-*" >&2
    exit 1
  fi
  n=$((n + 1))
done
# Go's fuzzer sometimes ends a run with the error of its own clock: that is
# the time being over, as long as there is no input to show.
out_of_time() { grep -qxE ' *context deadline exceeded' "$1" && ! grep -qE 'Failing input|panic:|fuzzing process' "$1"; }

# A package's targets share one instrumented binary; it runs in its package, where its corpus is.
top=$PWD
while read -r pkg targets; do
  bin=$top/$work/$(tr / _ <<<"${pkg#./}").test
  go test -c -fuzz=Fuzz -o "$bin" "$pkg"
  [[ $seconds == build ]] && continue
  for fuzz in $targets; do
    echo "fuzz $pkg $fuzz ${seconds}s"
    if ! (cd "$pkg" && "$bin" -test.run '^$' -test.fuzz "^$fuzz\$" -test.fuzztime "${seconds}s" -test.fuzzcachedir "$top/$work/cache/$pkg") >"$work/go.log" 2>&1 &&
      ! out_of_time "$work/go.log"; then
      tail -n 40 "$work/go.log" >&2
      echo "fuzz: $pkg $fuzz found something; input in the package's testdata/fuzz/$fuzz" >&2
      exit 1
    fi
    n=$((n + 1))
  done
done < <(grep -rl --include='*_test.go' -E '^func Fuzz' . | while read -r f; do
  grep -oE '^func Fuzz[A-Za-z0-9_]+' "$f" | while read -r _ name; do echo "$(dirname "$f") $name"; done
done | sort -u | awk '{ if ($1 != p) { if (p) print p, t; p = $1; t = $2 } else t = t " " $2 } END { if (p) print p, t }')
[[ $seconds == build ]] || echo "fuzz: $n targets, ${seconds}s each, nothing found"
