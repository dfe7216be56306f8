package npro

import (
	"runtime"

	"golang.org/x/sys/cpu"
)

// AEADs of the record layer, as numbered on the wire.
const (
	AEADXChaCha20Poly1305 uint8 = 1
	AEADAES256GCM         uint8 = 2
)

// TagSize is the size of an AEAD tag in bytes.
const TagSize = 16

// AEADName returns the name shown to people.
func AEADName(aead uint8) string {
	switch aead {
	case AEADXChaCha20Poly1305:
		return "XChaCha20-Poly1305"
	case AEADAES256GCM:
		return "AES-256-GCM"
	}
	return "none"
}

// PreferredAEADs returns what this machine should offer, best first:
// AES-256-GCM where the CPU has instructions for it, XChaCha20-Poly1305 where
// software AES would be slow and would leak through the cache.
func PreferredAEADs() []uint8 {
	if hasAES() {
		return []uint8{AEADAES256GCM, AEADXChaCha20Poly1305}
	}
	return []uint8{AEADXChaCha20Poly1305, AEADAES256GCM}
}

func hasAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESGCM
	}
	return false
}

// Compressions, as numbered on the wire.
const (
	CompressionNone uint8 = 0
	CompressionLZ4  uint8 = 1
	CompressionZstd uint8 = 2
)
