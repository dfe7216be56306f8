#!/usr/bin/env bash
# Gives an emulated card to vfio-pci and back, in a guest: at the deadline, after unbind, when the
# guard is told to end, and after it was killed. Each time driver, name, addresses and routes must be as before.
#
#   nic-bind.sh NPCTL     NPCTL built without cgo: CGO_ENABLED=0 go build -o NPCTL ./cmd/npctl
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ ${1:-} != guest ]]; then
  npctl=$(realpath "${1:?usage: nic-bind.sh NPCTL}")
  exec "$here/run.sh" -t 180 -m 768 -k "e1000e vfio-pci vfio_iommu_type1" -a "intel_iommu=on" \
    -M "q35,kernel-irqchip=split" -q "-device intel-iommu,intremap=on,caching-mode=on -netdev hubport,hubid=0,id=h0 -device e1000e,netdev=h0,mac=52:54:00:00:00:05" -- \
    bash "$here/nic-bind.sh" guest "$npctl"
fi
npctl=$2
fail() { echo "nic-bind: $*" >&2; cat /run/np/nic/*.log >&2 2>/dev/null || true; exit 1; }
nic=$(basename "$(dirname "$(grep -l 52:54:00:00:00:05 /sys/class/net/*/address)")")
pci=$(basename "$(readlink -f "/sys/class/net/$nic/device")")
driver() { basename "$(readlink "/sys/bus/pci/devices/$pci/driver" || echo none)"; }
has() { ip -o addr show dev "$nic" scope global 2>&1 | sed 's/^[0-9]*: //; s/\\.*//'; ip route show dev "$nic" 2>&1 | sed 's/ linkdown//'; ip -o link show dev "$nic" | grep -o 'mtu [0-9]*'; }

ip link set "$nic" mtu 1400 up
ip addr add 198.18.5.1/24 dev "$nic"
ip addr add 2001:db8:5::1/64 dev "$nic" nodad
ip route add 198.19.0.0/16 via 198.18.5.9 metric 5
before=$(has)
is_back() { # within so many tenths of a second
  for ((i = 0; i < $1; i++)); do
    [[ $(driver) == e1000e && $(has 2>/dev/null) == "$before" && ! -e /run/np/nic/$pci.json ]] && return 0
    sleep 0.1
  done
  fail "$2: driver $(driver), has: $(has), had: $before"
}
bound() { [[ $(driver) == vfio-pci && ! -e /sys/class/net/$nic ]] || fail "$1: not bound, driver $(driver)"; }

"$npctl" nic list --all -o wide
ip route add default via 198.18.5.9
rc=0; "$npctl" nic bind "$nic" --yes || rc=$?
[[ $rc == 7 && $(driver) == e1000e ]] || fail "bound although it carries the default route: exit $rc"
ip route del default via 198.18.5.9

"$npctl" nic bind "$nic" --confirm 3s --yes; bound "for the deadline"
is_back 150 "after the deadline"
echo "restored at the deadline"

"$npctl" nic bind "$nic" --confirm 5s --yes; bound "to confirm"
"$npctl" nic confirm "$nic"; sleep 6; bound "after the confirmation"
"$npctl" nic list --all
"$npctl" nic unbind "$nic"; is_back 1 "after unbind"
echo "restored by unbind"

"$npctl" nic bind "$nic" --confirm 60s --yes; bound "for the end of the guard"
guard=$(pgrep -f "nic guard $pci") || fail "no guard"
kill -TERM "$guard"; is_back 100 "after SIGTERM"
echo "restored when the guard was told to end"

"$npctl" nic bind "$nic" --confirm 4s --yes; bound "for the guard's death"
kill -KILL "$(pgrep -f "nic guard $pci")"; sleep 5; bound "with a dead guard"
"$npctl" nic list --all >/dev/null; is_back 1 "by the next npctl nic"
echo "restored by the next command"

rc=0; "$npctl" doctor --all || rc=$?
echo "doctor: exit $rc"
