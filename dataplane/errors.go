package dataplane

import "strconv"

// Code is an error of the data plane. It implements error, so
// errors.Is(err, dataplane.CodeStale) works through any wrapping.
type Code uint32

// Error returns the text of csrc/include/np/np_err.def.
func (c Code) Error() string {
	if t, ok := codeText[c]; ok {
		return t
	}
	return "data plane error " + strconv.FormatUint(uint64(c), 10)
}

// Err returns nil for CodeOK and c otherwise.
func (c Code) Err() error {
	if c == CodeOK {
		return nil
	}
	return c
}
