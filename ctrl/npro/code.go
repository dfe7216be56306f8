package npro

import "strconv"

// Code is an NPRO status (RESPONSE, one byte) or close code (DISCONNECT,
// RESET). The table in csrc/include/np/np_code.def declares them for both languages.
type Code uint32

// String returns the table's text, or the number for a code it does not list.
func (c Code) String() string {
	if t, ok := codeText[c]; ok {
		return t
	}
	return "code " + strconv.FormatUint(uint64(c), 10)
}

// Error makes a code usable as an error: a peer's answer that is not CodeOK.
func (c Code) Error() string { return c.String() }
