# shellcheck shell=bash disable=SC2154 # run.sh sets what is used here
# Part gateway of perf/run.sh: npd as HTTP gateway beside nginx and HAProxy, the same backend (nginx, 64 bytes from
# memory) and the same client for each, over loopback. The proxy runs on the server's CPU, backend and client
# share the other, so a fast proxy is not always the one that is full: beside requests a second stands the
# proxy's CPU time for one request. Needs no root. Sourced by run.sh.

gw_nginx() { # NAME CPU HTTP-BLOCK
  mkdir -p "$dir/$1"
  cat >"$dir/$1/nginx.conf" <<NGINX
daemon off; worker_processes 1; pid $dir/$1/pid; error_log $dir/$1/error.log;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 300s; http2_max_requests 1000000000;
  client_body_temp_path $dir/$1/b; proxy_temp_path $dir/$1/p; fastcgi_temp_path $dir/$1/f; uwsgi_temp_path $dir/$1/u; scgi_temp_path $dir/$1/s;
  $3
}
NGINX
  sed -i 's/http2_max_requests [0-9]*;//' "$dir/$1/nginx.conf" # gone since 1.19.7
  taskset -c "$2" nginx -p "$dir/$1" -c "$dir/$1/nginx.conf" >/dev/null 2>>"$dir/servers.log" &
  pids+=($!)
  gw_pid=$!
}

gw_up() {
  local body proxy grpc=127.0.0.1:17301 # nothing is there without the program
  if [[ -x $top/build/peers/grpcinterop ]]; then
    taskset -c "$ccpu" "$top/build/peers/grpcinterop" serve >"$dir/grpc.addr" 2>>"$dir/servers.log" &
    pids+=($!)
    timeout 10 bash -c "until [[ -s '$dir/grpc.addr' ]]; do sleep 0.05; done" || die "grpcinterop did not say where it serves"
    grpc=$(head -1 "$dir/grpc.addr")
    gw_grpc_backend=$grpc
    printf '\0\0\0\0\0' >"$dir/empty" # a message of no bytes
  fi
  body=$(printf 'x%.0s' $(seq 64))
  "$bin/npctl" cert generate --dir "$dir/tls" localhost 127.0.0.1 >/dev/null
  gw_nginx back "$ccpu" "server { listen 127.0.0.1:17300 backlog=4096; location / { return 200 '$body'; } }"
  proxy="proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host \$host;"
  gw_nginx nginx "$scpu" "upstream back { server 127.0.0.1:17300; keepalive 1024; }
    ssl_certificate $dir/tls/cert.pem; ssl_certificate_key $dir/tls/key.pem;
    server { listen 127.0.0.1:17310 backlog=4096; location / { $proxy } }
    server { listen 127.0.0.1:17311 ssl http2 backlog=4096; location / { $proxy } }
    upstream grpc { server $grpc; keepalive 64; }
    server { listen 127.0.0.1:17312 http2 backlog=4096; location / { grpc_pass grpc://grpc; } }"
  gw[nginx]=$gw_pid
  cat "$dir/tls/cert.pem" "$dir/tls/key.pem" >"$dir/haproxy.pem"
  cat >"$dir/haproxy.cfg" <<HAPROXY
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  http-reuse always
frontend f
  bind 127.0.0.1:17320
  bind 127.0.0.1:17321 ssl crt $dir/haproxy.pem alpn h2,http/1.1
  default_backend b
frontend fg
  bind 127.0.0.1:17322 proto h2
  default_backend g
backend g
  server s $grpc proto h2
backend b
  server s 127.0.0.1:17300
HAPROXY
  taskset -c "$scpu" haproxy -db -f "$dir/haproxy.cfg" >/dev/null 2>>"$dir/servers.log" &
  gw[haproxy]=$!
  pids+=($!)
  cat >"$dir/gw.toml" <<TOML
[server]
max_connections = 8192
[management]
socket = "$dir/gw.sock"
ro_socket = ""
[protocol]
private_key_file = "$dir/gw.key"
[[certificate]]
cert_file = "$dir/tls/cert.pem"
key_file = "$dir/tls/key.pem"
[[listener]]
name = "plain"
address = "127.0.0.1:17330"
protocol = "http"
[[listener]]
name = "tls"
address = "127.0.0.1:17331"
protocol = "http"
tls = true
[[upstream]]
name = "back"
endpoints = ["127.0.0.1:17300"]
[[listener]]
name = "grpc"
address = "127.0.0.1:17332"
protocol = "http"
[[upstream]]
name = "grpc"
protocol = "h2c"
endpoints = ["$grpc"]
[[route]]
name = "grpc"
grpc_service = "grpc.testing.TestService"
upstream = "grpc"
[[route]]
name = "all"
path_prefix = "/"
upstream = "back"
TOML
  taskset -c "$scpu" "$bin/npd" -c "$dir/gw.toml" >"$dir/gw.log" 2>&1 &
  gw[np]=$!
  pids+=($!)
  local i
  for i in 17300 17310 17311 17312 17320 17321 17322 17330 17331 17332; do
    timeout 10 bash -c "until : </dev/tcp/127.0.0.1/$i; do sleep 0.05; done" 2>/dev/null || { cat "$dir/gw.log" "$dir/servers.log" >&2; die "nothing listens on port $i"; }
  done
}

# CPU time of a proxy in nanoseconds; nginx works in a child.
gw_busy() { # CONTENDER
  local p=${gw[$1]}
  if [[ $1 == nginx ]]; then p=$(pgrep -P "$p" | head -1); fi
  cpu_ns "$p"
}

gw_http1() { # CONTENDER URL CONNS: rate, p99 and busy
  local b0 out n
  b0=$(gw_busy "$1")
  out=$(taskset -c "$ccpu" wrk -t1 -c"$3" -d"${secs}s" --latency "$2")
  n=$(awk '/requests in/ { print $1 }' <<<"$out")
  ! grep -qE 'Non-2xx|Socket errors' <<<"$out" || die "$1: $out"
  rate[$1]+=" $(awk '/^Requests\/sec/ { printf "%.0f", $2 }' <<<"$out")"
  p99[$1]+=" $(awk '$1 == "99%" { v = $2; u = v; sub(/[a-z]+$/, "", v); sub(/^[0-9.]+/, "", u); print v * (u == "us" ? 1 : u == "ms" ? 1000 : 1000000) }' <<<"$out")"
  busy[$1]+=" $(per $(($(gw_busy "$1") - b0)) "$n")"
}

gw_h2() { # CONTENDER URL
  local b0 out n
  b0=$(gw_busy "$1")
  out=$(timeout $((secs + 30)) taskset -c "$ccpu" h2load -t1 -c16 -m32 -D"$secs" "$2") || die "$1: h2load did not end; on a machine that is this busy it may go on for ever"
  n=$(awk '/^requests:/ { print $8 }' <<<"$out")
  [[ $(awk '/^requests:/ { print $10 }' <<<"$out") == 0 ]] || die "$1: $out"
  rate[$1]+=" $(awk '/^finished in/ { printf "%.0f", $4 }' <<<"$out")"
  busy[$1]+=" $(per $(($(gw_busy "$1") - b0)) "$n")"
}

gw_grpc() { # CONTENDER URL
  local b0 out n
  b0=$(gw_busy "$1")
  out=$(timeout $((secs + 30)) taskset -c "$ccpu" h2load -t1 -c16 -m32 -D"$secs" -d "$dir/empty" -H 'content-type: application/grpc' -H 'te: trailers' "$2grpc.testing.TestService/EmptyCall") || die "$1: h2load did not end"
  n=$(awk '/^requests:/ { print $8 }' <<<"$out")
  [[ $(awk '/^requests:/ { print $10 }' <<<"$out") == 0 && $(awk '/^status codes:/ { print $3 }' <<<"$out") -gt 0 ]] || die "$1: $out"
  rate[$1]+=" $(awk '/^finished in/ { printf "%.0f", $4 }' <<<"$out")"
  busy[$1]+=" $(per $(($(gw_busy "$1") - b0)) "$n")"
}

# Contenders take turns; what is printed are medians.
gw_round() { # WHAT FUNCTION PORT-SUFFIX SCHEME [CONNS]
  local -A rate=() busy=() p99=()
  local i c port
  for i in $(seq "$rounds"); do
    for c in nginx haproxy np; do
      case $c in nginx) port=1731$3 ;; haproxy) port=1732$3 ;; np) port=1733$3 ;; esac
      "$2" "$c" "$4://127.0.0.1:$port/" "${5:-}"
    done
  done
  # shellcheck disable=SC2086 # lists of numbers are split on purpose
  for c in nginx haproxy; do
    figure gateway "$1: requests" "$(median ${rate[np]})" "1/s" "$c" "$(median ${rate[$c]})"
    figure gateway "$1: CPU a request" "$(median ${busy[np]})" ns "$c" "$(median ${busy[$c]})"
    [[ -z ${p99[np]:-} ]] || figure gateway "$1: p99" "$(median ${p99[np]})" us "$c" "$(median ${p99[$c]})"
  done
}

run_gateway() {
  local -A gw=()
  local gw_pid gw_grpc_backend=
  for p in nginx haproxy wrk h2load; do command -v "$p" >/dev/null || die "part gateway needs $p: apt-get install nginx-light haproxy wrk nghttp2-client"; done
  gw_up
  gw_round "HTTP/1.1, 64 connections" gw_http1 0 http 64
  gw_round "HTTP/1.1, 256 connections" gw_http1 0 http 256
  gw_round "HTTP/1.1 with TLS, 64 connections" gw_http1 1 https 64
  gw_round "HTTP/2 with TLS, 16 x 32" gw_h2 1 https
  if [[ -n $gw_grpc_backend ]]; then
    gw_round "gRPC unary, 16 x 32" gw_grpc 2 http
  else
    echo "gateway: no figures of gRPC without its server: make peers PEERS=grpcinterop" >&2
  fi
  figure gateway "memory after it" "$(awk '/^VmRSS/ { print $2 / 1024 }' "/proc/${gw[np]}/status")" MiB
}
