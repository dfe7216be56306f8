// Package nic lists the machine's network cards and gives one to DPDK: it binds a PCI
// device to vfio-pci and remembers the driver, addresses and routes it had, so that
// it can go back, on request, when nobody confirms in time, and after a crash.
//
// What was done is in a state file per card, written before the driver is touched.
// Whoever comes next (the guard, npctl, npd at its start) finds there what to undo.
//
// It must not know: the data plane, configuration.
package nic
