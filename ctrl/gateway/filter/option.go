package filter

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Stage is a handler around another.
type Stage = func(next http.Handler) http.Handler

// OptionError is what is wrong with an option.
type OptionError struct {
	Field string // the option's name, small letters and underscores
	At    int    // which of a list, from 0; -1: the option as a whole
	Err   error
}

func (e *OptionError) Error() string {
	if e.At >= 0 {
		return e.Field + " " + strconv.Itoa(e.At+1) + ": " + e.Err.Error()
	}
	return e.Field + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OptionError) Unwrap() error { return e.Err }

// checker collects what is wrong with options.
type checker struct{ errs []error }

func (c *checker) bad(field string, format string, args ...any) { c.badAt(field, -1, format, args...) }

func (c *checker) badAt(field string, at int, format string, args ...any) {
	c.errs = append(c.errs, &OptionError{field, at, fmt.Errorf(format, args...)})
}

// add takes over an error that has no field yet.
func (c *checker) add(field string, err error) {
	if err != nil {
		c.errs = append(c.errs, &OptionError{field, -1, err})
	}
}

func (c *checker) err() error { return errors.Join(c.errs...) }

// isToken says whether s is a token (RFC 9110 §5.6.2), as names of fields and methods are.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// validValue says whether s may be the value of a field (RFC 9110 §5.5).
func validValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return strings.Trim(s, " \t") == s
}

// validHost says whether s may stand in a Host field: a name or an address, perhaps with a port.
func validHost(s string) bool {
	if s == "" || len(s) > 260 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '.', c == '_', c == ':', c == '[', c == ']':
		default:
			return false
		}
	}
	return true
}

// splitHost parts a host from its port, which may be missing. Brackets stay with the host.
func splitHost(s string) (host, port string) {
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		return s[:i], s[i+1:]
	}
	return s, ""
}
