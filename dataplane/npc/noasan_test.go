//go:build cgo && !asan

package npc

const underASan = false
