# shellcheck shell=bash disable=SC2154 # run.sh sets what is used here
# Part sock of perf/run.sh: npd's poll core on kernel sockets, over loopback TCP and Unix sockets, by epoll and by
# io_uring, beside the kernel's echo in C (epoll) and Go's net. Needs no root. Sourced by run.sh.
# Server busy is CPU time of the poll core's thread, which is told to sleep at once when it has nothing to do: on
# a machine that others use too, time by the clock would count them.

knpctl() { "$bin/npctl" -s "$dir/k.sock" "$@"; }
kcounter() { knpctl stats -o json | jq ".counters[] | select(.name == \"$1\").value"; }

# An npd without interfaces: listeners named echo-ENGINE, unix-ENGINE, npro-ENGINE, nprounix-ENGINE.
sock_up() {
  local e port=17000
  {
    printf '[server]\nmax_connections = 4096\n[dataplane]\ncores = [%s]\nidle.spin = "1us"\n' "$scpu"
    printf '[management]\nsocket = "%s/k.sock"\nro_socket = ""\n[protocol]\nprivate_key_file = "%s/k.key"\nallow_any_peer = true\n' "$dir" "$dir"
    for e in epoll io_uring; do
      port=$((port + 10))
      sock_port[$e]=$port
      printf '[[listener]]\nname = "%s-%s"\naddress = "%s"\nprotocol = "%s"\nbackend = "%s"\n' \
        echo $e "127.0.0.1:$port" echo $e unix $e "unix:$dir/echo-$e" echo $e \
        npro $e "127.0.0.1:$((port + 1))" npro $e nprounix $e "unix:$dir/npro-$e" npro $e
    done
  } >"$dir/k.toml"
  env -u NP_MANAGEMENT_SOCKET -u NP_MANAGEMENT_RO_SOCKET -u NP_PROTOCOL_PRIVATE_KEY_FILE -u NP_SERVER_MAX_CONNECTIONS \
    taskset -c "$ccpu" "$bin/npd" -c "$dir/k.toml" >"$dir/k.log" 2>&1 &
  knpd=$!
  pids+=("$knpd")
  for _ in $(seq 100); do
    knpctl status -q >/dev/null 2>&1 && return
    kill -0 "$knpd" 2>/dev/null || break
    sleep 0.1
  done
  cat "$dir/k.log" >&2
  die "npd on kernel sockets did not become ready"
}

# sock_server VARIABLE COMMAND...: on the server's CPU
sock_server() {
  local -n out=$1
  shift
  taskset -c "$scpu" "$@" </dev/null >/dev/null 2>>"$dir/servers.log" &
  out=$!
  pids+=("$out")
  sleep 0.3
  kill -0 "$out" 2>/dev/null || { cat "$dir/servers.log" >&2; die "server ended: $*"; }
}

sock_busy() { # [PID of another server than npd]
  if [[ -n $1 ]]; then cpu_ns "$1"; else cpu_ns "$knpd" np-core-0; fi
}

# One run against one contender: appends to rate, busy, p50.
sock_echo() { # CONTENDER CONNS ADDR PORT [PID]
  local b0 b1 r
  b0=$(sock_busy "${5:-}")
  r=$(taskset -c "$ccpu" "$perf/peer" echo "$3" "$4" "$2" 64 "$secs")
  b1=$(sock_busy "${5:-}")
  rate[$1]+=" $(field rps "$r")"
  p50[$1]+=" $(field p50_us "$r")"
  busy[$1]+=" $(per $((b1 - b0)) "$(field requests "$r")")"
}

sock_npro() { # CONTENDER ADDRESS DEPTH
  local b0 c0 r
  b0=$(sock_busy "")
  c0=$(kcounter npro_echoes_total)
  r=$(taskset -c "$ccpu" "$bin/nppktgen" npro --addr "$2" -c 16 --depth "$3" --size 64 -d "${secs}s" --aead gcm -o json)
  rate[$1]+=" $(jq '.messages_per_second | round' <<<"$r")"
  busy[$1]+=" $(per $(($(sock_busy "") - b0)) $(($(kcounter npro_echoes_total) - c0)))"
}

# Lists of numbers and contenders are split on purpose.
# shellcheck disable=SC2086
run_sock() {
  local -A sock_port=() rate=() busy=() p50=()
  local i conns depth e what knpd cpid cupid gpid
  go build -trimpath -o "$bin/netecho" ./perf/netecho
  sock_up
  sock_server cpid "$perf/peer" serve 17100
  sock_server cupid "$perf/peer" serve "$dir/echo-c"
  sock_server gpid "$bin/netecho" -backend net -addr 127.0.0.1:17200
  for conns in 1 64; do
    rate=() busy=() p50=()
    for ((i = 0; i < rounds; i++)); do
      for e in epoll io_uring; do
        sock_echo "tcp-$e" "$conns" 127.0.0.1 "${sock_port[$e]}"
        sock_echo "unix-$e" "$conns" unix "$dir/echo-$e"
      done
      sock_echo tcp-c "$conns" 127.0.0.1 17100 "$cpid"
      sock_echo unix-c "$conns" unix "$dir/echo-c" "$cupid"
      sock_echo tcp-go "$conns" 127.0.0.1 17200 "$gpid"
    done
    for e in epoll io_uring; do
      what="64 B echo, $conns connections, $e"
      figure sock "$what" "$(median ${rate[tcp-$e]})" req/s "epoll in C" "$(median ${rate[tcp-c]})"
      figure sock "$what" "$(median ${rate[tcp-$e]})" req/s "Go's net" "$(median ${rate[tcp-go]})"
      figure sock "$what, p50" "$(median ${p50[tcp-$e]})" us "epoll in C" "$(median ${p50[tcp-c]})"
      figure sock "$what, server busy" "$(median ${busy[tcp-$e]})" ns/req "epoll in C" "$(median ${busy[tcp-c]})"
      figure sock "$what, Unix" "$(median ${rate[unix-$e]})" req/s "epoll in C, Unix" "$(median ${rate[unix-c]})"
      figure sock "$what, Unix, server busy" "$(median ${busy[unix-$e]})" ns/req "TCP" "$(median ${busy[tcp-$e]})"
    done
  done
  for depth in 1 16; do
    rate=() busy=()
    for ((i = 0; i < rounds; i++)); do
      for e in epoll io_uring; do
        sock_npro "tcp-$e" "127.0.0.1:$((${sock_port[$e]} + 1))" "$depth"
        sock_npro "unix-$e" "unix:$dir/npro-$e" "$depth"
      done
    done
    what="64 B NPRO echo, 16 connections, depth $depth"
    figure sock "$what, io_uring" "$(median ${rate[tcp-io_uring]})" msg/s epoll "$(median ${rate[tcp-epoll]})"
    figure sock "$what, io_uring, server busy" "$(median ${busy[tcp-io_uring]})" ns/msg epoll "$(median ${busy[tcp-epoll]})"
    for e in epoll io_uring; do
      figure sock "$what, $e, Unix" "$(median ${rate[unix-$e]})" msg/s "TCP" "$(median ${rate[tcp-$e]})"
      figure sock "$what, $e, Unix, server busy" "$(median ${busy[unix-$e]})" ns/msg "TCP" "$(median ${busy[tcp-$e]})"
    done
  done
  kill "$cpid" "$cupid" "$gpid"
}
