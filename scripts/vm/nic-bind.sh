#!/usr/bin/env bash
# Gives an emulated card to vfio-pci and back, in a guest: at the deadline, after unbind, when the
# guard is told to end, and after it was killed. Each time driver, name, addresses and routes must be as before.
#
# With NPD also: npd goes from AF_XDP to DPDK while its card is bound, holds it, and gives it back; and the card is
# pulled from under npd while a client on the other end of its wire keeps it busy, and put in again, twice.
#
#   nic-bind.sh NPCTL [NPD]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ ${1:-} != guest ]]; then
  npctl=$(realpath "${1:?usage: nic-bind.sh NPCTL [NPD]}")
  npd=${2:+$(realpath "$2")}
  exec "$here/run.sh" -t 360 -m 1024 -k "e1000e vfio-pci vfio_iommu_type1 tun" -a "intel_iommu=on hugepages=96" \
    -M "q35,kernel-irqchip=split" -q "-device intel-iommu,intremap=on,caching-mode=on,aw-bits=48 -netdev hubport,hubid=0,id=h0 -device e1000e,netdev=h0,mac=52:54:00:00:00:05 -netdev hubport,hubid=0,id=h1 -device e1000e,netdev=h1,mac=52:54:00:00:00:06" -- \
    bash "$here/nic-bind.sh" guest "$npctl" "$npd"
fi
npctl=$2 npd=$3
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
[[ -n $npd ]] || exit 0

dir=$(mktemp -d)
cat >"$dir/np.toml" <<END
[dataplane]
cores = 1
[management]
socket = "$dir/np.sock"
ro_socket = ""
[protocol]
private_key_file = "$dir/key"
allow_any_peer = true
[limits]
buffers_per_core = 4096
loans_per_core = 512
[[interface]]
name = "$nic"
addresses = "198.18.0.1/24"
END
"$npd" -c "$dir/np.toml" 2>>"$dir/log" &
daemon=$!
show() { "$npctl" -s "$dir/np.sock" --no-headers backend show 2>&1 | head -n 1 | tr -s ' '; }
is_on() { # the backend, within 30 seconds
  for ((i = 0; i < 300; i++)); do
    [[ $(show) == "interface $nic auto $1 "* ]] && return 0
    sleep 0.1
  done
  cat "$dir/log" >&2
  fail "npd is not on $1: $(show)"
}
is_on "af_xdp copy"
"$npctl" nic bind "$nic" --confirm 0 --yes; is_on dpdk
"$npctl" -s "$dir/np.sock" interface list

# The card goes while it is busy: the kernel waits for npd to let go of it. Back and bound again, npd takes it again.
peer=$(basename "$(dirname "$(grep -l 52:54:00:00:00:06 /sys/class/net/*/address)")")
ip addr add 198.18.0.2/24 dev "$peer"
ip link set "$peer" up
echoes() { "$npctl" -s "$dir/np.sock" --no-headers stats | awk '$1 == "npro_echoes_total" { print $2; n = 1 } END { if (!n) print 0 }'; }
loaded() { # within 40 seconds there are 200 echoes more
  local from; from=$(echoes)
  for ((i = 0; i < 400; i++)); do
    (($(echoes) >= from + 200)) && return 0
    sleep 0.1
  done
  cat "$dir/log" "$dir/load" >&2
  fail "no load $1: $from echoes, then $(echoes)"
}
for pull in first second; do
  timeout 60 "$(dirname "$npd")/nppktgen" npro --addr 198.18.0.1:7700 -c 4 --depth 4 --size 64 -d 50s >"$dir/load" 2>&1 &
  load=$!
  loaded "before the $pull pull"
  timeout 30 bash -c "echo 1 >/sys/bus/pci/devices/$pci/remove" || { cat "$dir/log" >&2; fail "$pull pull: npd does not let go of its card"; }
  [[ ! -e /sys/bus/pci/devices/$pci ]] || fail "$pull pull: the card is still there"
  kill -0 "$daemon" || { cat "$dir/log" >&2; fail "$pull pull: npd ended"; }
  grep -q 'msg="interface down".*interface='"$nic"'.*reason=' "$dir/log" || { cat "$dir/log" >&2; fail "$pull pull: npd did not say that its interface is down"; }
  grep 'msg="interface down"' "$dir/log" | tail -n 1
  echo 1 >/sys/bus/pci/rescan
  echo vfio-pci >"/sys/bus/pci/devices/$pci/driver_override"
  [[ $(driver) == none ]] || echo "$pci" >"/sys/bus/pci/devices/$pci/driver/unbind"
  echo "$pci" >/sys/bus/pci/drivers_probe
  [[ $(driver) == vfio-pci ]] || fail "$pull pull: put in again, driver $(driver)"
  is_on dpdk
  kill -TERM "$load" 2>/dev/null || true; wait "$load" || true
  : >"$dir/log"
done
timeout 60 "$(dirname "$npd")/nppktgen" npro --addr 198.18.0.1:7700 -c 4 --depth 4 --size 64 -d 50s >"$dir/load" 2>&1 &
load=$!
loaded "after the second pull"
kill -TERM "$load"; wait "$load" || true
"$npctl" -s "$dir/np.sock" interface list
echo "npd outlived its card twice and took it again"

rc=0; "$npctl" nic unbind "$nic" || rc=$?
[[ $rc == 7 && $(driver) == vfio-pci ]] || fail "taken from under npd: exit $rc"
kill -TERM "$daemon"; wait "$daemon"
"$npctl" nic unbind "$nic"
[[ $(driver) == e1000e ]] || fail "after npd: driver $(driver)"
echo "npd went to DPDK with its card and gave it back"
