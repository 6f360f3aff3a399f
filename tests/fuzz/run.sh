#!/usr/bin/env bash
# Fuzzes each target for SECONDS. What a run finds worth keeping stays in the build directory;
# the corpus is only read.
#
#   tests/fuzz/run.sh SECONDS [TARGET...]
#
# SANITIZER=address turns AddressSanitizer on, at a tenth of the speed.
set -euo pipefail

seconds=${1:?usage: $0 SECONDS [TARGET...]}
shift
fuzz=$(cd "$(dirname "$0")" && pwd)
build=${CARGO_TARGET_DIR:-$fuzz/../../target}/fuzz
mkdir -p "$build"
build=$(cd "$build" && pwd)
sanitizer=${SANITIZER:-none}
# Sanitizers are unstable options, which a stable compiler takes when it is told to.
[ "$sanitizer" = none ] || export RUSTC_BOOTSTRAP=1

cd "$fuzz"
cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked
# cargo-fuzz knows no --locked: an outdated lock file is an error here, not a change.
cargo fetch --quiet --locked
cargo fuzz build --fuzz-dir . --sanitizer "$sanitizer" --target-dir "$build/$sanitizer"
binaries=$build/$sanitizer/$(rustc -vV | sed -n 's/^host: //p')/release

[ $# -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
[ $# -eq 0 ] || targets=("$@")

table=$(printf '%-10s %14s %10s %7s %8s  %s' target executions exec/s cov ft outcome)
failed=0
for target in "${targets[@]}"; do
  printf '\n== %s, %s s\n' "$target" "$seconds"
  found=$build/corpus/$target artifacts=$fuzz/artifacts/$target log=$build/$target.log
  mkdir -p "$found" "$artifacts"
  outcome=passed
  "$binaries/$target" -max_total_time="$seconds" -timeout=10 -print_final_stats=1 \
    -artifact_prefix="$artifacts/" "$found" "corpus/$target" >"$log" 2>&1 || outcome=FAILED
  if [ "$outcome" = FAILED ]; then
    failed=1
    grep -vE '#[0-9]+\s+(NEW|REDUCE|pulse|RELOAD)' "$log" | tail -60
    echo "the input is in $artifacts"
  fi
  stat() { sed -n "s/^stat::$1: *//p" "$log"; }
  last() { grep -oE " $1: [0-9]+" "$log" | tail -1 | tr -dc 0-9; }
  table+=$(printf '\n%-10s %14s %10s %7s %8s  %s' "$target" "$(stat number_of_executed_units)" \
    "$(stat average_exec_per_sec)" "$(last cov)" "$(last ft)" "$outcome")
done
printf '\n%s\n' "$table"
exit "$failed"
