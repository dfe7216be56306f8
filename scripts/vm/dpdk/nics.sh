#!/usr/bin/env bash
# In the guest: pairs of NICs, each pair on a hub. Those whose MAC ends in an even byte go to vfio-pci, the others stay
# the kernel's, with 198.18.N.2 for pair N. Prints and exports the PCI addresses as NP_NICS="PCI ..." by pair; then
# runs what is given. NP_VM_NICS: how many pairs.
set -euo pipefail
by_mac() { # the PCI address of the NIC with this MAC
  local f
  f=$(grep -l "^$1$" /sys/class/net/*/address) || { echo "nics: no NIC has MAC $1" >&2; exit 1; }
  basename "$(readlink -f "$(dirname "$f")/device")"
}
# virtio's own device stands between the NIC and its PCI device
pci_of() {
  local d
  d=$(by_mac "$1")
  case $d in
    virtio*) basename "$(readlink -f "/sys/bus/virtio/devices/$d/..")" ;;
    *) echo "$d" ;;
  esac
}
nics=''
for ((n = 0; n < NP_VM_NICS; n++)); do
  ours=52:54:00:00:0$n:00
  theirs=$(basename "$(dirname "$(grep -l "^52:54:00:00:0$n:01$" /sys/class/net/*/address)")")
  ip addr add "198.18.$n.2/24" dev "$theirs"
  ip link set "$theirs" up
  pci=$(pci_of "$ours")
  from=$(basename "$(readlink "/sys/bus/pci/devices/$pci/driver")")
  echo vfio-pci >"/sys/bus/pci/devices/$pci/driver_override"
  echo "$pci" >"/sys/bus/pci/devices/$pci/driver/unbind"
  echo "$pci" >/sys/bus/pci/drivers_probe
  [[ $(basename "$(readlink "/sys/bus/pci/devices/$pci/driver")") == vfio-pci ]] || { echo "nics: $pci did not bind" >&2; exit 1; }
  echo "pair $n: $pci from $from to vfio-pci, $theirs with 198.18.$n.2"
  nics+="$pci "
done
export NP_NICS=$nics
ulimit -l unlimited
exec "$@"
