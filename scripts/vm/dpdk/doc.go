// Package dpdk tests DPDK's drivers on emulated NICs in the guest of scripts/vm: `make
// vm-dpdk` builds its test program here and runs it there. nics.sh binds one NIC of each
// pair to vfio-pci; the other is the kernel's, on the same wire.
package dpdk
