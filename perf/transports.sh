# shellcheck shell=bash disable=SC2154 # run.sh sets what is used here
# Part transports of perf/run.sh: one configuration of npd on each transport that this machine has, each on a veth
# pair of its own, under the same kernel client in turns: NPRO echo and bulk, plain echo; beside the kernel's echo in
# C (epoll) and Go's net. Sourced by run.sh. Server busy is CPU time of the poll core's thread, told to sleep at once
# when it has nothing to do.

tr_names=(af_xdp af_packet dpdk io_uring epoll)

tnpctl() { "$bin/npctl" -s "$dir/t-$1.sock" "${@:2}"; }
tcounter() { tnpctl "$1" stats -o json | jq ".counters[] | select(.name == \"$2\").value"; }

# npd on transport $1 in a world of its own; false, with the reason said, when it can't be had.
tr_up() {
  local t=$1 ns=${name}t$1
  ns=${ns//_/}
  tr_ns[$t]=$ns
  scripts/netns.sh up "$ns"
  tr_made+=("$ns")
  {
    printf '[server]\nmax_connections = 4096\n[dataplane]\ncores = [%s]\nidle.spin = "1us"\non_fallback = "fail"\n' "$scpu"
    printf '[management]\nsocket = "%s/t-%s.sock"\nro_socket = ""\n[protocol]\nprivate_key_file = "%s/t-%s.key"\nallow_any_peer = true\n' "$dir" "$t" "$dir" "$t"
    case $t in
    epoll | io_uring) ;;
    dpdk) printf '[[interface]]\nname = "np0"\naddresses = ["198.18.0.1/24"]\nbackend = "dpdk"\ndevice = "net_af_packet0,iface=np0"\n' ;;
    af_xdp) printf '[[interface]]\nname = "np0"\naddresses = ["198.18.0.1/24"]\nbackend = "af_xdp"\nzero_copy = "off"\n' ;;
    *) printf '[[interface]]\nname = "np0"\naddresses = ["198.18.0.1/24"]\nbackend = "%s"\n' "$t" ;;
    esac
    for l in npro:7700 echo:7; do
      printf '[[listener]]\nname = "%s"\naddress = ":%s"\nprotocol = "%s"\n' "${l%:*}" "${l#*:}" "${l%:*}"
      case $t in epoll | io_uring) printf 'backend = "%s"\n' "$t" ;; esac
    done
  } >"$dir/t-$t.toml"
  case $t in epoll | io_uring)
    ip -n "$ns-s" addr add 198.18.0.1/24 dev np0
    ip netns exec "$ns-s" ethtool -K np0 tx off gro off tso off gso off >/dev/null 2>&1
    ;;
  esac
  env -u NP_MANAGEMENT_SOCKET -u NP_MANAGEMENT_RO_SOCKET -u NP_PROTOCOL_PRIVATE_KEY_FILE -u NP_SERVER_MAX_CONNECTIONS \
    ip netns exec "$ns-s" taskset -c "$ccpu" "$bin/npd" -c "$dir/t-$t.toml" >"$dir/t-$t.log" 2>&1 &
  tr_pid[$t]=$!
  pids+=("${tr_pid[$t]}")
  for _ in $(seq 100); do
    tnpctl "$t" status -q >/dev/null 2>&1 && return 0
    kill -0 "${tr_pid[$t]}" 2>/dev/null || break
    sleep 0.1
  done
  echo "perf/run.sh: transports: $t is left out: $(tail -n 1 "$dir/t-$t.log")" >&2
  return 1
}

tr_npro() { # TRANSPORT DEPTH SIZE
  local t=$1 b0 c0 r
  b0=$(cpu_ns "${tr_pid[$t]}" np-core-0)
  c0=$(tcounter "$t" npro_echoes_total)
  r=$(ip netns exec "${tr_ns[$t]}-c" taskset -c "$ccpu" "$bin/nppktgen" npro --addr 198.18.0.1:7700 -c 16 --depth "$2" --size "$3" -d "${secs}s" --aead gcm -o json)
  rate[$t]+=" $(jq '.messages_per_second | round' <<<"$r")"
  p50[$t]+=" $(jq '.p50_us' <<<"$r")"
  p99[$t]+=" $(jq '.p99_us' <<<"$r")"
  busy[$t]+=" $(per $(($(cpu_ns "${tr_pid[$t]}" np-core-0) - b0)) $(($(tcounter "$t" npro_echoes_total) - c0)))"
}

tr_echo() { # CONTENDER NAMESPACE PORT PID [THREAD]
  local b0 r
  b0=$(cpu_ns "$4" "${5:-}")
  r=$(ip netns exec "$2-c" taskset -c "$ccpu" "$perf/peer" echo 198.18.0.1 "$3" 64 64 "$secs")
  rate[$1]+=" $(field rps "$r")"
  p50[$1]+=" $(field p50_us "$r")"
  p99[$1]+=" $(field p99_us "$r")"
  busy[$1]+=" $(per $(($(cpu_ns "$4" "${5:-}") - b0)) "$(field requests "$r")")"
}

# Lists of numbers are split on purpose.
# shellcheck disable=SC2086
run_transports() {
  local -A tr_ns=() tr_pid=() rate=() busy=() p50=() p99=()
  local have=() t i size depth what kpid gpid
  world_up
  go build -trimpath -o "$bin/netecho" ./perf/netecho
  kernel_server kpid "$perf/peer" serve 7000
  kernel_server gpid "$bin/netecho" -backend net -addr 198.18.0.1:7200
  for t in "${tr_names[@]}"; do
    if tr_up "$t"; then have+=("$t"); fi
  done
  for ((i = 0; i < rounds; i++)); do
    for t in "${have[@]}"; do tr_echo "$t" "${tr_ns[$t]}" 7 "${tr_pid[$t]}" np-core-0; done
    tr_echo c "${name}k" 7000 "$kpid"
    tr_echo go "${name}k" 7200 "$gpid"
  done
  for t in "${have[@]}"; do
    what="$t: 64 B echo, 64 connections"
    figure transports "$what" "$(median ${rate[$t]})" req/s "epoll in C" "$(median ${rate[c]})"
    figure transports "$what" "$(median ${rate[$t]})" req/s "Go's net" "$(median ${rate[go]})"
    figure transports "$what, p50" "$(median ${p50[$t]})" us "epoll in C" "$(median ${p50[c]})"
    figure transports "$what, p99" "$(median ${p99[$t]})" us "epoll in C" "$(median ${p99[c]})"
    figure transports "$what, server busy" "$(median ${busy[$t]})" ns/req "epoll in C" "$(median ${busy[c]})"
  done
  for size in 64 16384; do
    for depth in 1 16; do
      [[ $size == 64 || $depth == 16 ]] || continue
      rate=() busy=() p50=() p99=()
      for ((i = 0; i < rounds; i++)); do
        for t in "${have[@]}"; do tr_npro "$t" "$depth" "$size"; done
      done
      for t in "${have[@]}"; do
        what="$t: NPRO echo $size B, 16 connections, depth $depth"
        figure transports "$what" "$(median ${rate[$t]})" msg/s epoll "$(median ${rate[epoll]:-0})"
        figure transports "$what, p50" "$(median ${p50[$t]})" us epoll "$(median ${p50[epoll]:-0})"
        figure transports "$what, p99" "$(median ${p99[$t]})" us epoll "$(median ${p99[epoll]:-0})"
        figure transports "$what, server busy" "$(median ${busy[$t]})" ns/msg epoll "$(median ${busy[epoll]:-0})"
        [[ $size == 64 ]] || figure transports "$what, each way" "$(awk -v m="$(median ${rate[$t]})" -v s="$size" 'BEGIN { printf "%.3f", m * s * 8 / 1e9 }')" Gbit/s
      done
    done
  done
  kill "$kpid" "$gpid"
}
