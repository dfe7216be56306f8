package gateway

import (
	"errors"
	"fmt"

	"github.com/np-appliance/np/ctrl/config"
)

// builder compiles one configuration. Errors are collected: an operator mends a file once.
type builder struct {
	g    *Gateway
	cfg  *config.Config
	old  *generation
	next *generation
	errs []error
}

// fail remembers what is wrong at a path of the configuration such as "route[3].path".
func (b *builder) fail(path string, err error) {
	if err != nil {
		b.errs = append(b.errs, &config.Error{Pos: b.cfg.Pos(path), What: err.Error()})
	}
}

// failf is fail with the words made here.
func (b *builder) failf(path, format string, args ...any) {
	b.fail(path, fmt.Errorf(format, args...))
}

// each hands out the errors that errors.Join made one of.
func each(err error, f func(error)) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, e := range joined.Unwrap() {
			each(e, f)
		}
		return
	}
	if err != nil {
		f(err)
	}
}
