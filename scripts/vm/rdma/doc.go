// Package rdma tests RDMA on soft-RoCE devices in the guest of scripts/vm: `make vm-rdma`
// builds its test program here and runs it there. endpoints.sh makes the two devices.
package rdma
