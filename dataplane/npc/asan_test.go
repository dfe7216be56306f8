//go:build cgo && asan

package npc

// underASan: its instrumentation allocates where the code does not.
const underASan = true
