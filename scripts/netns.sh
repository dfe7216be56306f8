#!/usr/bin/env bash
# The two namespaces that demo, e2e and benchmarks use, joined by a veth pair:
#
#   NAME-c (client, kernel TCP)                 NAME-s (the appliance)
#   c0 198.18.0.2/24, 2001:db8::2/64  ========  np0 (no kernel address)
#
# With the word relay there is a third, NAME-r, between them, and np-relay (scripts/relay) is to run in it:
#
#   NAME-c  c0  ====  ra  NAME-r  rb  ====  np0  NAME-s
#
# scripts/netns.sh up NAME [MTU] [QUEUES] [relay]   makes them
# scripts/netns.sh down NAME                        removes them and all that is in them
#
# The appliance's addresses, 198.18.0.1 and 2001:db8::1, belong to np itself. The client's checksum
# offload is off because a veth otherwise delivers packets with unfinished checksums.
set -euo pipefail

die() {
  echo "netns: $*" >&2
  exit 1
}
[[ $# -ge 2 ]] || die "usage: $0 up|down NAME [MTU] [QUEUES] [relay]"
verb=$1 name=$2 mtu=${3:-1500} queues=${4:-1} wire=${5:-}
[[ $name =~ ^[a-z][a-z0-9-]{0,20}$ ]] || die "NAME '$name': want lower-case letters, digits, dashes"
[[ -z $wire || $wire == relay ]] || die "'$wire': want relay or nothing"
[[ $(id -u) == 0 ]] || die "needs root"

# A veth pair: namespace and name of each end.
pair() {
  ip -n "$1" link add "$2" mtu "$mtu" numtxqueues "$queues" numrxqueues "$queues" type veth \
    peer name "$4" netns "$3" mtu "$mtu" numtxqueues "$queues" numrxqueues "$queues"
}

case $verb in
up)
  spaces=("$name-c" "$name-s")
  [[ -z $wire ]] || spaces+=("$name-r")
  for ns in "${spaces[@]}"; do ip netns add "$ns"; done
  if [[ -n $wire ]]; then
    pair "$name-c" c0 "$name-r" ra
    pair "$name-s" np0 "$name-r" rb
    for dev in ra rb; do
      ip netns exec "$name-r" sysctl -qw "net.ipv6.conf.$dev.disable_ipv6=1"
      ip -n "$name-r" link set "$dev" up
    done
  else
    pair "$name-s" np0 "$name-c" c0
  fi
  for ns in "$name-c" "$name-s"; do
    ip netns exec "$ns" sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0
    ip -n "$ns" link set lo up
  done
  ip netns exec "$name-c" sysctl -qw net.ipv6.conf.c0.accept_dad=0
  ip -n "$name-c" link set c0 up
  ip -n "$name-s" link set np0 up
  ip -n "$name-c" addr add 198.18.0.2/24 dev c0
  ip -n "$name-c" addr add 2001:db8::2/64 dev c0 nodad
  ip netns exec "$name-c" ethtool -K c0 tx off gro off tso off gso off >/dev/null 2>&1 || true
  ;;
down)
  for ns in "$name-c" "$name-s" "$name-r"; do
    ip netns pids "$ns" 2>/dev/null | xargs -r kill 2>/dev/null || true
    ip netns del "$ns" 2>/dev/null || true
  done
  ;;
*) die "unknown verb '$verb': want up or down" ;;
esac
