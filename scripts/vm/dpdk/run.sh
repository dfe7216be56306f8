#!/usr/bin/env bash
# Runs a test program of this folder in a guest with two pairs of NICs behind an emulated IOMMU: run.sh PROGRAM ARGS...
# NP_VM_IOMMU_BITS: 48 lets DPDK use our own addresses (IOVA mode VA), 39, QEMU's default, makes it use physical ones.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nics=(e1000e virtio-net-pci)
qemu="-device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on,aw-bits=${NP_VM_IOMMU_BITS:-48}"
export NP_VM_NICS=${#nics[@]}
for n in "${!nics[@]}"; do
  export "NP_VM_NIC$n=${nics[n]}"
  for end in 0 1; do
    more=''
    if [[ ${nics[n]} == virtio* ]]; then more=,disable-legacy=on,iommu_platform=on,ats=on; fi
    qemu+=" -netdev hubport,hubid=$n,id=n$n$end -device ${nics[n]},netdev=n$n$end,mac=52:54:00:00:0$n:0$end$more"
  done
done
exec "$here/../run.sh" -t "${NP_VM_SECONDS:-300}" -m 1536 -k "e1000e virtio_net vfio-pci vfio_iommu_type1" -a "intel_iommu=on hugepages=96" \
  -M "q35,kernel-irqchip=split" -q "$qemu" -- "$here/nics.sh" "$@"
