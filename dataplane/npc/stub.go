//go:build !cgo

package npc

import (
	"fmt"

	"github.com/np-appliance/np/dataplane"
)

// New says that this binary has no data plane in C.
func New(*dataplane.Config) (dataplane.Plane, error) {
	return nil, fmt.Errorf("start data plane: %w (this program was built without cgo: build it with make)", dataplane.CodeUnsupported)
}

// ProbeUring says that there is no io_uring without the data plane in C.
func ProbeUring() error {
	return fmt.Errorf("%w (this program was built without cgo: build it with make)", dataplane.CodeUnsupported)
}
