#!/usr/bin/env bash
# The figures of perf/README.md: prints a table and appends one JSON line per figure to
# perf/results/YYYY-MM-DD.jsonl.
#
#   perf/run.sh [stack|records|ports|sock|gateway|veth|netconn|transports|peers|npro|idle]...    default: all
#
# veth, netconn, transports, peers, npro and idle make network namespaces and need root. ROUNDS (3) and SECS (2) say how
# often and how long each contender of those runs; contenders take turns, figures are medians.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD bin=$PWD/build/bin perf=$PWD/build/release/perf
rounds=${ROUNDS:-3} secs=${SECS:-2}
parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(stack records ports sock gateway veth netconn transports peers npro idle)

die() {
  echo "perf/run.sh: $*" >&2
  exit 1
}
for p in "${parts[@]}"; do
  case $p in stack | records | ports | sock | gateway) ;; veth | netconn | transports | peers | npro | idle) need_root=1 ;; *) die "unknown part '$p': want stack, records, ports, sock, gateway, veth, netconn, transports, peers, npro or idle" ;; esac
done
[[ -z ${need_root:-} || $(id -u) == 0 ]] || die "veth, netconn, transports, peers, npro and idle need root (network namespaces, AF_XDP); without it: perf/run.sh stack records"
for f in "$perf/peer" "$perf/bench_stack" "$perf/bench_conns" "$perf/bench_records" "$bin/npd"; do [[ -x $f ]] || die "$f is not there: make bench builds it"; done

mkdir -p build perf/results
exec 9>build/bench.lock
flock -w 900 9 || die "another benchmark has held build/bench.lock for 15 minutes"

# The server's poll core runs on the first CPU, clients and npd's Go side on the last.
mapfile -t cpus < <(taskset -cp $$ | sed 's/.*: //' | tr , '\n' | while IFS=- read -r a b; do seq "$a" "${b:-$a}"; done)
scpu=${cpus[0]} ccpu=${cpus[-1]}
[[ $scpu != "$ccpu" ]] || echo "perf/run.sh: one CPU only: server and client share it, the figures over veth say little" >&2

commit=$(git rev-parse --short HEAD 2>/dev/null || echo none)
[[ -z $(git status --porcelain --untracked-files=no 2>/dev/null) ]] || commit+=-dirty
model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
kernel=$(uname -r)
now=$(date -u +%Y-%m-%dT%H:%M:%SZ)
results=perf/results/${now%T*}.jsonl

load=$(cut -d' ' -f1 /proc/loadavg)
awk -v l="$load" 'BEGIN { exit l < 0.5 }' && echo "perf/run.sh: the load average is $load: what else runs here takes part in every figure" >&2

name=npperf$$
dir=$(mktemp -d)
pids=()
tr_made=()
cleanup() {
  trap - EXIT INT TERM
  for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
  for p in "${pids[@]}"; do wait "$p" 2>/dev/null || true; done
  if [[ -n ${world:-} ]]; then
    scripts/netns.sh down "$name"
    scripts/netns.sh down "${name}k"
  fi
  [[ -z ${netconn:-} ]] || scripts/netns.sh down "${name}n"
  if [[ -n ${peers:-} ]]; then
    scripts/netns.sh down "${name}l"
    scripts/netns.sh down "${name}g"
  fi
  for w in "${tr_made[@]}"; do scripts/netns.sh down "$w"; done
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# figure BENCH METRIC VALUE UNIT [PEER PEER_VALUE]: one line on the terminal and one in the results.
figure() {
  local ratio=null peer=null shown=
  if [[ -n ${5:-} ]]; then
    ratio=$(awk -v a="$3" -v b="$6" 'BEGIN { if (b > 0) printf "%.3f", a / b; else printf "null" }')
    peer="\"$5\""
    shown=$(printf '%14s  %-22s x%s' "$6" "$5" "$ratio")
  fi
  printf '%-8s %-44s %14s %-8s %s\n' "$1" "$2" "$3" "$4" "$shown"
  jq -cn --arg bench "$1" --arg metric "$2" --argjson value "$3" --arg unit "$4" --argjson peer "$peer" \
    --argjson peer_value "${6:-null}" --argjson ratio "$ratio" --arg commit "$commit" --arg cpu_model "$model" \
    --arg kernel "$kernel" --argjson load "$load" --arg time "$now" '$ARGS.named' >>"$results"
}
median() { printf '%s\n' "$@" | sort -g | awk '{ v[NR] = $1 } END { printf "%.10g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
field() { sed -n "s/.*\b$1=\([0-9.]*\).*/\1/p" <<<"$2"; }
# ns that a process's threads have run so far; of the one thread named $2 when given
cpu_ns() {
  local t sum=0
  for t in "/proc/$1"/task/*; do
    [[ -z ${2:-} || $(cat "$t/comm") == "$2" ]] && sum=$((sum + $(cut -d' ' -f1 "$t/schedstat")))
  done
  echo "$sum"
}
per() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.0f", a / b; else print 0 }'; }

npctl() { "$bin/npctl" -s "$dir/np.sock" "$@"; }
counter() { npctl stats -o json | jq ".counters[] | select(.name == \"$1\").value"; }

# npd on one pair, room for the kernel's servers on another of the same make.
world_up() {
  [[ -z ${world:-} ]] || return 0
  world=1
  scripts/netns.sh up "$name"
  scripts/netns.sh up "${name}k"
  ip -n "${name}k-s" addr add 198.18.0.1/24 dev np0
  ip netns exec "${name}k-s" ethtool -K np0 tx off gro off tso off gso off >/dev/null 2>&1
  "$bin/npd" config example | sed "s/^cores = [^#]*/cores = [$scpu] /" >"$dir/np.toml"
  export NP_MANAGEMENT_SOCKET=$dir/np.sock NP_MANAGEMENT_RO_SOCKET=$dir/ro.sock
  export NP_PROTOCOL_PRIVATE_KEY_FILE=$dir/npd.key NP_SERVER_MAX_CONNECTIONS=4096
  ip netns exec "$name-s" taskset -c "$ccpu" "$bin/npd" -c "$dir/np.toml" >"$dir/npd.log" 2>&1 &
  npd=$!
  pids+=("$npd")
  for _ in $(seq 100); do
    npctl status -q >/dev/null 2>&1 && break
    kill -0 "$npd" 2>/dev/null || { cat "$dir/npd.log" >&2; die "npd ended"; }
    sleep 0.1
  done
  npctl status -q || { cat "$dir/npd.log" >&2; die "npd did not become ready"; }
}
on_np() { ip netns exec "$name-c" taskset -c "$ccpu" "$@"; }
on_kernel() { ip netns exec "${name}k-c" taskset -c "$ccpu" "$@"; }
# kernel_server VARIABLE COMMAND...: starts it on the server's CPU, its pid goes into VARIABLE
kernel_server() {
  local -n out=$1
  shift
  ip netns exec "${name}k-s" taskset -c "$scpu" "$@" </dev/null >/dev/null 2>>"$dir/servers.log" &
  out=$!
  pids+=("$out")
  sleep 0.3
  kill -0 "$out" 2>/dev/null || { cat "$dir/servers.log" >&2; die "server ended: $*"; }
}

# DPDK's virtual devices through the port layer; nothing where it was not built in.
run_ports() {
  local what line
  for what in "null 64" "turns 64" "turns 1514" "memif 64" "memif 1514"; do
    # shellcheck disable=SC2086 # words
    "$perf/bench_ports" $what "$secs" 2>/dev/null | while read -r line; do
      figure ports "$(jq -r '"\(.what), \(.bytes) B"' <<<"$line")" "$(jq .mpps <<<"$line")" Mpps
    done
  done
}

run_stack() {
  local line
  line=$(taskset -c "$scpu" "$perf/bench_stack" --json)
  figure stack "64 B echo, 1,000 connections" "$(jq .ns_per_segment <<<"$line")" ns/seg
  figure stack "64 B echo, 1,000 connections, rate" "$(jq .mpps <<<"$line")" Mpps
  for k in parse ip tcp_input deliver_echo_send; do figure stack "stage: ${k//_/ }" "$(jq ".${k}_ns" <<<"$line")" ns/seg; done
  local args what
  while read -r what args; do
    # shellcheck disable=SC2086 # words, not one argument
    line=$(taskset -c "$scpu" "$perf/bench_stack" $args --json)
    figure stack "64 B echo, ACKs not timed, $what connections" "$(jq .ns_per_segment <<<"$line")" ns/seg
    figure stack "taken by header prediction, $what connections" "$(jq '.fast_path * 100' <<<"$line")" %
  done <<<"1 --ack 1 --conns 1 --rounds 20000
1,000 --ack 1 --rounds 400
1,000,000 --ack 1 --conns 1000000 --rounds 5"
  figure stack "accepting 1,000,000 connections" "$(jq .open_ns <<<"$line")" ns/conn
  for args in 1 0; do
    what=$([[ $args == 1 ]] && echo joined || echo "one by one")
    line=$(taskset -c "$scpu" "$perf/bench_stack" --discard 1 --conns 100 --depth 32 --size 1400 --gro "$args" --json)
    figure stack "1,400 B received, 32 in a row, $what" "$(jq .ns_per_segment <<<"$line")" ns/seg
    figure stack "1,400 B received, 32 in a row, $what" "$(jq '1400 * 8 / .ns_per_segment' <<<"$line")" Gbit/s
  done
  line=$(taskset -c "$scpu" "$perf/bench_stack" --hold 100000 --rounds 50 --json)
  figure stack "memory per connection, session included" "$(jq .bytes_per_conn <<<"$line")" bytes
  figure stack "64 B echo, 1,000 of 101,000 connections" "$(jq .ns_per_segment <<<"$line")" ns/seg
  for args in 0 1; do
    what=$([[ $args == 1 ]] && echo "port gathers, cuts, sums" || echo "no offloads")
    line=$(taskset -c "$scpu" "$perf/bench_stack" --send 1 --conns 100 --rounds 400 --offload "$args" --json)
    figure stack "sending to 100 connections, $what" "$(jq .gbit_per_s <<<"$line")" Gbit/s
  done
  for args in 7200 60; do
    line=$(taskset -c "$scpu" "$perf/bench_stack" --idle "$args" --conns 1000000 --json)
    figure stack "1,000,000 idle, keep-alive $args s, core time" "$(jq .core_ns_per_s <<<"$line")" ns/s
  done
  figure stack "1,000,000 idle, a turn that finds nothing" "$(jq .spin_turn_ns <<<"$line")" ns
  figure stack "keep-alive and its answer" "$(jq .probe_ns <<<"$line")" ns
  figure stack "memory per connection, TCP and its table" "$(jq .tcp_bytes <<<"$line")" bytes
  figure stack "memory per connection, session" "$(jq .session_bytes <<<"$line")" bytes
  line=$(taskset -c "$scpu" "$perf/bench_conns" --json)
  for k in accepts opens; do
    figure stack "life of a connection, core that $k" "$(jq ".${k}_ns" <<<"$line")" ns
    figure stack "life of a connection, core that $k, rate" "$(jq ".${k}_per_s" <<<"$line")" conn/s
  done
  figure stack "wheel of 1,000,000 timers: a look" "$(jq .advance_ns <<<"$line")" ns
  figure stack "wheel of 1,000,000 timers: set, cold" "$(jq .timer_set_ns <<<"$line")" ns
  figure stack "wheel of 1,000,000 timers: set and cancel" "$(jq .timer_set_cancel_ns <<<"$line")" ns
  figure stack "wheel of 1,000,000 timers: each that fires" "$(jq .fire_ns <<<"$line")" ns
}

run_records() {
  local op aead bytes ns bare evp
  taskset -c "$scpu" "$perf/bench_records" --json >"$dir/records"
  while read -r op aead bytes ns bare evp; do
    if [[ $op == null ]]; then
      figure records "decode header of $bytes B" "$ns" ns
    elif [[ $bare == null ]]; then
      figure records "$op $aead $bytes B" "$ns" ns
    else
      figure records "$op $aead $bytes B" "$ns" ns "libipsec-mb" "$bare"
      [[ $evp == null ]] || figure records "$op $aead $bytes B" "$ns" ns "OpenSSL EVP" "$evp"
    fi
  done < <(jq -rs 'group_by([.op, .aead, .bytes])[] | (map({(.who // "np"): .ns}) | add) as $w
    | "\(.[0].op) \(.[0].aead) \(.[0].bytes) \($w.np) \($w["ipsec-mb"]) \($w["openssl-evp"])"' "$dir/records")
  # Go's own record layer, for the SDK
  local out
  out=$(taskset -c "$ccpu" go test -run '^$' -bench 'Seal|Open' -benchtime 200ms ./ctrl/npro)
  while read -r label ns; do figure records "Go $label" "$ns" ns; done < <(awk '/^Benchmark/ { for (i = 3; i <= NF; i++) if ($i == "ns/op") { sub(/^Benchmark/, "", $1); print $1, $(i - 1) } }' <<<"$out")
}

# Where the kernel server's packets go up: on a core by RPS, or as they come.
receive_on() {
  local mask=0
  [[ $1 == none ]] || mask=$(printf '%x' $((1 << $1)))
  ip netns exec "${name}k-s" sh -c "echo $mask >/sys/class/net/np0/queues/rx-0/rps_cpus"
}
idle_ns() { awk -v cpu="cpu$scpu" -v hz="$(getconf CLK_TCK)" '$1 == cpu { printf "%.0f", ($5 + $6) * 1e9 / hz }' /proc/stat; }

echo_round() { # CONNS: appends to the arrays below
  local conns=$1 b0 b1 r c0
  b0=$(counter core_busy_nanoseconds_total)
  r=$(on_np "$perf/peer" echo 198.18.0.1 7 "$conns" 64 "$secs")
  b1=$(counter core_busy_nanoseconds_total)
  np_rps+=("$(field rps "$r")") np_p50+=("$(field p50_us "$r")") np_p99+=("$(field p99_us "$r")")
  np_busy+=("$(per $((b1 - b0)) "$(field requests "$r")")")
  np_client+=("$(per "$(field cpu_ns "$r")" "$(field requests "$r")")")
  c0=$(cpu_ns "$kpid")
  r=$(on_kernel "$perf/peer" echo 198.18.0.1 7000 "$conns" 64 "$secs")
  k_rps+=("$(field rps "$r")") k_p50+=("$(field p50_us "$r")") k_p99+=("$(field p99_us "$r")")
  k_busy+=("$(per $(($(cpu_ns "$kpid") - c0)) "$(field requests "$r")")")
  k_client+=("$(per "$(field cpu_ns "$r")" "$(field requests "$r")")")
  # once more with its receiving where it belongs, see README.md
  receive_on "$scpu"
  c0=$(idle_ns)
  r=$(on_kernel "$perf/peer" echo 198.18.0.1 7000 "$conns" 64 "$secs")
  kr_busy+=("$(per "$(awk -v s="$(field seconds "$r")" -v idle=$(($(idle_ns) - c0)) 'BEGIN { printf "%.0f", s * 1e9 - idle }')" "$(field requests "$r")")")
  kr_rps+=("$(field rps "$r")")
  receive_on none
  r=$(on_kernel "$perf/peer" echo 198.18.0.1 7100 "$conns" 64 "$secs")
  ks_rps+=("$(field rps "$r")")
}

run_veth() {
  local conns i kpid kspin
  world_up
  kernel_server kpid "$perf/peer" serve 7000
  kernel_server kspin "$perf/peer" serve 7100 spin
  for conns in 1 64; do
    local np_rps=() k_rps=() ks_rps=() kr_rps=() kr_busy=() np_busy=() k_busy=() np_p50=() k_p50=() np_p99=() k_p99=() np_client=() k_client=()
    for ((i = 0; i < rounds; i++)); do echo_round "$conns"; done
    local what="64 B echo, $conns connections"
    [[ $conns != 1 ]] || what="64 B echo, 1 connection"
    figure veth "$what" "$(median "${np_rps[@]}")" req/s kernel "$(median "${k_rps[@]}")"
    figure veth "$what" "$(median "${np_rps[@]}")" req/s "kernel, spinning" "$(median "${ks_rps[@]}")"
    figure veth "$what" "$(median "${np_rps[@]}")" req/s "kernel, own receiving" "$(median "${kr_rps[@]}")"
    figure veth "$what, p50" "$(median "${np_p50[@]}")" us kernel "$(median "${k_p50[@]}")"
    figure veth "$what, p99" "$(median "${np_p99[@]}")" us kernel "$(median "${k_p99[@]}")"
    figure veth "$what, server busy" "$(median "${np_busy[@]}")" ns/req kernel "$(median "${k_busy[@]}")"
    figure veth "$what, server busy" "$(median "${np_busy[@]}")" ns/req "kernel, own receiving" "$(median "${kr_busy[@]}")"
    figure veth "$what, client busy" "$(median "${np_client[@]}")" ns/req kernel "$(median "${k_client[@]}")"
  done
  local np_rx=() k_rx=() np_tx=() k_tx=()
  for ((i = 0; i < rounds; i++)); do
    np_rx+=("$(field gbps "$(on_np "$perf/peer" send 198.18.0.1 9 "$secs")")")
    k_rx+=("$(field gbps "$(on_kernel "$perf/peer" send 198.18.0.1 7001 "$secs")")")
    np_tx+=("$(field gbps "$(on_np "$perf/peer" recv 198.18.0.1 19 "$secs")")")
    k_tx+=("$(field gbps "$(on_kernel "$perf/peer" recv 198.18.0.1 7002 "$secs")")")
  done
  figure veth "1 connection, MTU 1500, server receives" "$(median "${np_rx[@]}")" Gbit/s kernel "$(median "${k_rx[@]}")"
  figure veth "1 connection, MTU 1500, server sends" "$(median "${np_tx[@]}")" Gbit/s kernel "$(median "${k_tx[@]}")"
  kill "$kpid" "$kspin"
}

# An echo server in Go on net.Conns of our own stack and of Go's net: all of it on one CPU, poll core included.
run_netconn() {
  local own net i r t c0 what tls
  world_up
  netconn=1
  scripts/netns.sh up "${name}n"
  go build -trimpath -o "$bin/tlsecho" ./perf/tlsecho
  go build -trimpath -o "$bin/netecho" ./perf/netecho
  for tls in "" -tls; do
    # shellcheck disable=SC2086 # nothing or one word
    ip netns exec "${name}n-s" taskset -c "$scpu" "$bin/netecho" -backend af_xdp -cpu "$scpu" -spin 1us $tls </dev/null >/dev/null 2>>"$dir/servers.log" &
    own=$!
    pids+=("$own")
    # shellcheck disable=SC2086
    kernel_server net "$bin/netecho" -backend net $tls
    sleep 1
    kill -0 "$own" 2>/dev/null || { cat "$dir/servers.log" >&2; die "netecho ended"; }
    local -A rps=() busy=()
    for ((i = 0; i < rounds; i++)); do
      for t in own net; do
        local ns=${name}n pid=$own
        [[ $t == own ]] || ns=${name}k pid=$net
        c0=$(cpu_ns "$pid")
        if [[ -n $tls ]]; then
          r=$(ip netns exec "$ns-c" taskset -c "$ccpu" "$bin/tlsecho" load -addr 198.18.0.1:7000 -conns 64 -depth 1 -size 64 -duration "${secs}s" |
            jq -r '"rps=\(.messages_per_second | round) requests=\(.messages_all)"')
        else
          r=$(ip netns exec "$ns-c" taskset -c "$ccpu" "$perf/peer" echo 198.18.0.1 7000 64 64 "$secs")
        fi
        rps[$t]+=" $(field rps "$r")"
        busy[$t]+=" $(per $(($(cpu_ns "$pid") - c0)) "$(field requests "$r")")"
      done
    done
    what="64 B echo, 64 connections${tls:+, TLS}"
    # shellcheck disable=SC2086 # lists of numbers
    figure netconn "$what" "$(median ${rps[own]})" req/s "Go's net" "$(median ${rps[net]})"
    # shellcheck disable=SC2086
    figure netconn "$what, server busy" "$(median ${busy[own]})" ns/req "Go's net" "$(median ${busy[net]})"
    kill "$own" "$net"
    wait "$own" "$net" 2>/dev/null || true
  done
}

# The same loads against other userspace stacks, from np's own stack and from the kernel's: NAME NAMESPACE FIRST_PORT
# of each contender; busy is CPU time of its process, for npd the time of turns that found work.
peer_busy() { # NAME
  if [[ $1 == np ]]; then counter core_busy_nanoseconds_total; else cpu_ns "${pid[$1]}"; fi
}
own_load() { # NAME ARGS...: nppktgen on its own stack in the contender's client namespace
  local ns=$name${suffix[$1]}
  shift
  ip netns exec "$ns-c" "$bin/nppktgen" tcp --interface c0 --address 198.18.0.3/24 --cpu "$ccpu" -d "${secs}s" -o json "$@"
}
start_peer() { # NAME COMMAND...: on the server's CPU of its own namespace
  local who=$1 ns=$name${suffix[$1]}
  shift
  ip netns exec "$ns-s" taskset -c "$scpu" "$@" </dev/null >/dev/null 2>>"$dir/servers.log" &
  pid[$who]=$!
  pids+=($!)
  sleep 0.5
  kill -0 "${pid[$who]}" 2>/dev/null || { cat "$dir/servers.log" >&2; die "server ended: $*"; }
}

run_peers() {
  local -A pid=() suffix=([np]='' [kernel]=k [lwip]=l [gvisor]=g) echo_port=([np]=7 [kernel]=7000 [lwip]=7000 [gvisor]=7000) \
    sink_port=([np]=9 [kernel]=7001 [lwip]=7001 [gvisor]=7001) source_port=([np]=19 [kernel]=7002 [lwip]=7002 [gvisor]=7002)
  local -A rps=() busy=() client=() rx=() tx=() krps=() rx_busy=() tx_busy=()
  local who who_list=(np kernel) r b0 b1 i
  world_up
  peers=1
  start_peer kernel "$perf/peer" serve 7000
  if [[ -x $perf/lwip ]]; then
    scripts/netns.sh up "${name}l"
    start_peer lwip "$perf/lwip" np0 198.18.0.1/24 7000
    who_list+=(lwip)
  else
    echo "perf/run.sh: no lwIP: apt-get install liblwip-dev, then make bench" >&2
  fi
  if (cd perf/netstack && go build -trimpath -o "$bin/netstack" .) 2>"$dir/netstack.log"; then
    scripts/netns.sh up "${name}g"
    start_peer gvisor "$bin/netstack" np0 198.18.0.1/24 7000
    who_list+=(gvisor)
  else
    echo "perf/run.sh: no gVisor: $(tail -1 "$dir/netstack.log")" >&2
  fi
  for ((i = 0; i < rounds; i++)); do
    for who in "${who_list[@]}"; do
      b0=$(peer_busy "$who")
      r=$(own_load "$who" --target "198.18.0.1:${echo_port[$who]}" -c 64)
      b1=$(peer_busy "$who")
      rps[$who]+=" $(jq '.messages_per_second | round' <<<"$r")"
      # busy covers the half second of warm-up too
      busy[$who]+=" $(per $((b1 - b0)) "$(jq ".messages * ($secs + 0.5) / $secs | round" <<<"$r")")"
      client[$who]+=" $(jq 'if .messages > 0 then .busy_ns / .messages | round else 0 end' <<<"$r")"
      b0=$(peer_busy "$who")
      r=$(own_load "$who" --target "198.18.0.1:${sink_port[$who]}" --mode send --size 1448)
      b1=$(peer_busy "$who")
      rx[$who]+=" $(jq '.tx_gbit_per_second * 1000 | round / 1000' <<<"$r")"
      rx_busy[$who]+=" $(jq "$((b1 - b0)) / (.tx_gbit_per_second * ($secs + 0.5) * 125000) | round" <<<"$r")"
      b0=$(peer_busy "$who")
      r=$(own_load "$who" --target "198.18.0.1:${source_port[$who]}" --mode receive --no-verify)
      b1=$(peer_busy "$who")
      tx[$who]+=" $(jq '.rx_gbit_per_second * 1000 | round / 1000' <<<"$r")"
      tx_busy[$who]+=" $(jq "$((b1 - b0)) / (.rx_gbit_per_second * ($secs + 0.5) * 125000) | round" <<<"$r")"
      r=$(ip netns exec "$name${suffix[$who]}-c" taskset -c "$ccpu" "$perf/peer" echo 198.18.0.1 "${echo_port[$who]}" 64 64 "$secs")
      krps[$who]+=" $(field rps "$r")"
    done
  done
  # shellcheck disable=SC2086 # lists of numbers
  for who in "${who_list[@]:1}"; do
    figure peers "64 B echo, 64 connections, own client" "$(median ${rps[np]})" req/s "$who" "$(median ${rps[$who]})"
    figure peers "64 B echo, 64 connections, own client, busy" "$(median ${busy[np]})" ns/req "$who" "$(median ${busy[$who]})"
    figure peers "64 B echo, 64 connections, kernel client" "$(median ${krps[np]})" req/s "$who" "$(median ${krps[$who]})"
    figure peers "1 connection, server receives" "$(median ${rx[np]})" Gbit/s "$who" "$(median ${rx[$who]})"
    figure peers "1 connection, server receives, busy" "$(median ${rx_busy[np]})" ns/KB "$who" "$(median ${rx_busy[$who]})"
    figure peers "1 connection, server sends" "$(median ${tx[np]})" Gbit/s "$who" "$(median ${tx[$who]})"
    figure peers "1 connection, server sends, busy" "$(median ${tx_busy[np]})" ns/KB "$who" "$(median ${tx_busy[$who]})"
  done
  # shellcheck disable=SC2086
  figure peers "nppktgen's own core, 64 B echo against npd" "$(median ${client[np]})" ns/req
  for who in "${who_list[@]:1}"; do kill "${pid[$who]}"; done
}

run_npro() {
  local size depth i r b0 c0 tls tlsg port=7443
  local args=(-conns 16 -duration "${secs}s")
  world_up
  go build -trimpath -o "$bin/tlsecho" ./perf/tlsecho
  for size in 64 1024 16384; do
    port=$((port + 2))
    kernel_server tls "$bin/tlsecho" serve -addr ":$port" -size "$size"
    kernel_server tlsg "$bin/tlsecho" serve -addr ":$((port + 1))" -size "$size" -gather
    for depth in 1 16; do
      local np=() sdk=() t=() tg=() np_busy=() t_busy=()
      for ((i = 0; i < rounds; i++)); do
        b0=$(counter core_busy_nanoseconds_total)
        c0=$(counter npro_echoes_total)
        r=$(on_np "$bin/tlsecho" npro -addr 198.18.0.1:7700 "${args[@]}" -depth "$depth" -size "$size")
        np+=("$(jq '.messages_per_second | round' <<<"$r")")
        np_busy+=("$(per $(($(counter core_busy_nanoseconds_total) - b0)) $(($(counter npro_echoes_total) - c0)))")
        c0=$(cpu_ns "$tls")
        r=$(on_kernel "$bin/tlsecho" load -addr "198.18.0.1:$port" "${args[@]}" -depth "$depth" -size "$size")
        t+=("$(jq '.messages_per_second | round' <<<"$r")")
        t_busy+=("$(per $(($(cpu_ns "$tls") - c0)) "$(jq .messages_all <<<"$r")")")
        r=$(on_np "$bin/nppktgen" npro --addr 198.18.0.1:7700 -c 16 --depth "$depth" --size "$size" -d "${secs}s" --aead gcm -o json)
        sdk+=("$(jq '.messages_per_second | round' <<<"$r")")
        if [[ $depth -gt 1 ]]; then
          r=$(on_kernel "$bin/tlsecho" load -gather -addr "198.18.0.1:$((port + 1))" "${args[@]}" -depth "$depth" -size "$size")
          tg+=("$(jq '.messages_per_second | round' <<<"$r")")
        fi
      done
      local what="$size B echo, 16 connections, depth $depth"
      figure npro "$what" "$(median "${np[@]}")" msg/s "crypto/tls" "$(median "${t[@]}")"
      figure npro "$what, by the SDK" "$(median "${sdk[@]}")" msg/s "crypto/tls" "$(median "${t[@]}")"
      [[ $depth == 1 ]] || figure npro "$what" "$(median "${np[@]}")" msg/s "crypto/tls, gathered" "$(median "${tg[@]}")"
      figure npro "$what, server busy" "$(median "${np_busy[@]}")" ns/msg "crypto/tls" "$(median "${t_busy[@]}")"
    done
    kill "$tls" "$tlsg"
  done
}

run_idle() {
  local a b conns
  world_up
  for conns in 0 1000; do
    if [[ $conns -gt 0 ]]; then
      on_np "$perf/peer" hold 198.18.0.1 7 "$conns" 10 >"$dir/hold" &
      pids+=($!)
      sleep 3
      [[ $(counter tcp_connections) == "$conns" ]] || die "idle: not all $conns connections are open"
    else
      sleep 1
    fi
    a=$(cpu_ns "$npd")
    sleep 5
    b=$(cpu_ns "$npd")
    figure idle "npd idle, $conns connections, all threads" "$(awk -v n=$((b - a)) 'BEGIN { printf "%.2f", n / 5e7 }')" "%"
  done
}

# shellcheck source=perf/transports.sh
. perf/transports.sh
# shellcheck source=perf/gateway.sh
. perf/gateway.sh
# shellcheck source=perf/sock.sh
. perf/sock.sh

printf '%-8s %-44s %14s %-8s %14s  %-22s %s\n' PART FIGURE NP UNIT PEER BESIDE RATIO
for p in "${parts[@]}"; do "run_$p"; done
echo "results: ${results#"$top"/} (commit $commit, $model, Linux $kernel; server on CPU $scpu, clients on CPU $ccpu)"
