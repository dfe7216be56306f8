#!/usr/bin/env bash
# The demo: npd in one network namespace with its example configuration, a load
# generator on the kernel's TCP in another, ten seconds, then what npctl shows.
# Needs root and the binaries of `make bin`. Cleans up, also on Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/build/bin
seconds=${1:-10}
[[ $(id -u) == 0 ]] || { echo "demo: needs root (network namespaces, AF_XDP): sudo make demo" >&2; exit 1; }

name=npdemo$$
dir=$(mktemp -d)
npd_pid=
cleanup() {
  trap - EXIT INT TERM
  if [[ -n $npd_pid ]] && kill -0 "$npd_pid" 2>/dev/null; then
    kill -TERM "$npd_pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$npd_pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$npd_pid" 2>/dev/null || true
  fi
  scripts/netns.sh down "$name"
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

scripts/netns.sh up "$name"
export NP_MANAGEMENT_SOCKET=$dir/np.sock NP_MANAGEMENT_RO_SOCKET=$dir/ro.sock
export NP_PROTOCOL_PRIVATE_KEY_FILE=$dir/npd.key
"$bin/npd" config example >"$dir/np.toml"

# npd's poll core runs on CPU 0 (the example configuration), the client on the last CPU.
last=$(($(nproc) - 1))
echo "demo: starting npd on np0 (AF_XDP, 198.18.0.1 and 2001:db8::1)"
ip netns exec "$name-s" "$bin/npd" -c "$dir/np.toml" >"$dir/npd.log" 2>&1 &
npd_pid=$!
ready=
for _ in $(seq 100); do
  if "$bin/npctl" -s "$dir/np.sock" status -q >/dev/null 2>&1; then ready=1; break; fi
  kill -0 "$npd_pid" 2>/dev/null || break
  sleep 0.1
done
if [[ -z $ready ]]; then
  cat "$dir/npd.log" >&2
  echo "demo: npd did not become ready; its log is above" >&2
  exit 1
fi

echo "demo: ${seconds} s of encrypted ECHO requests from the kernel's TCP in the other namespace"
ip netns exec "$name-c" taskset -c "$last" "$bin/nppktgen" npro --addr 198.18.0.1:7700 \
  --conns 16 --depth 16 --size 64 --duration "${seconds}s" --progress &
gen_pid=$!
sleep $((seconds > 2 ? seconds - 2 : 1))
"$bin/npctl" -s "$dir/np.sock" conn list >"$dir/conns" 2>&1 || true
wait "$gen_pid"

echo
echo '$ npctl status'
"$bin/npctl" -s "$dir/np.sock" status
echo
echo '$ npctl conn list        (taken while the load ran)'
cat "$dir/conns"
echo
echo "demo: done. Next: sudo make e2e, or write your own configuration from: build/bin/npd config example"
