package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/np-appliance/np/ctrl/config"
)

// builder compiles one configuration. Errors are collected: an operator mends a file once.
type builder struct {
	g    *Gateway
	cfg  *config.Config
	old  *generation
	next *generation
	errs config.Errors
}

// fail remembers what is wrong at a path of the configuration such as "route[3].path".
func (b *builder) fail(path string, err error) {
	if err != nil {
		b.errs = append(b.errs, &config.Error{Pos: b.cfg.Pos(path), What: err.Error()})
	}
}

// wrong is everything that was remembered, in reading order; nil: nothing.
func (b *builder) wrong() error {
	if len(b.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(b.errs, func(x, y *config.Error) int {
		if x.Pos.Source != y.Pos.Source {
			return 0
		}
		return cmp.Or(cmp.Compare(x.Pos.Line, y.Pos.Line), cmp.Compare(x.Pos.Col, y.Pos.Col))
	})
	return b.errs
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
