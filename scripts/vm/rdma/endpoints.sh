#!/usr/bin/env bash
# In the guest: two soft-RoCE devices, rxe0 (198.18.0.1) and rxe1 (198.18.1.1), joined by a
# veth pair. Soft-RoCE of this kernel knows one network namespace only, so both ends are in
# it; rules send what would be local traffic over the wire. Then runs what is given.
set -euo pipefail
ip link add v0 type veth peer name v1
ip addr add 198.18.0.1/24 dev v0
ip addr add 198.18.1.1/24 dev v1
for d in all v0 v1; do
  sysctl -qw "net.ipv4.conf.$d.accept_local=1" "net.ipv4.conf.$d.rp_filter=0" "net.ipv4.conf.$d.arp_ignore=1" "net.ipv4.conf.$d.arp_announce=2"
done
ip link set v0 up mtu 4200
ip link set v1 up mtu 4200
ip route add 198.18.1.1/32 dev v0 src 198.18.0.1
ip route add 198.18.0.1/32 dev v1 src 198.18.1.1
ip rule add pref 10 iif v0 lookup local
ip rule add pref 11 iif v1 lookup local
ip rule add pref 12 iif lo to 198.18.1.1 lookup main
ip rule add pref 13 iif lo to 198.18.0.1 lookup main
ip rule add pref 100 lookup local
ip rule del pref 0
rdma link add rxe0 type rxe netdev v0
rdma link add rxe1 type rxe netdev v1
sleep 0.3 # addresses become GIDs
ulimit -l unlimited
exec "$@"
