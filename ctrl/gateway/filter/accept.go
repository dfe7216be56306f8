package filter

import "strings"

// coding is a content coding.
type coding uint8

// Codings.
const (
	identity coding = iota
	gzipped
	zstandard
	numCodings
)

func (c coding) String() string { return [...]string{"identity", "gzip", "zstd"}[c] }

func parseCoding(s string) (coding, bool) {
	switch {
	case strings.EqualFold(s, "gzip") || strings.EqualFold(s, "x-gzip"):
		return gzipped, true
	case strings.EqualFold(s, "zstd"):
		return zstandard, true
	case strings.EqualFold(s, "identity"):
		return identity, true
	}
	return 0, false
}

// weight is a quality in thousandths, from 0 (not acceptable); unsaid: the field does not say.
type weight int16

const unsaid weight = -1

// accepted is what an Accept-Encoding field says of the codings that are known here.
type accepted [numCodings]weight

// maxAccept bounds the elements that are looked at; who lists more wants trouble.
const maxAccept = 64

// parseAccept reads the lines of Accept-Encoding (RFC 9110 §12.5.3). Elements that are
// none are left out. No line, or none with anything in it: no coding is asked for.
func parseAccept(lines []string) accepted {
	out := accepted{unsaid, unsaid, unsaid}
	star, elements := unsaid, 0
	for _, line := range lines {
		for line != "" && elements < maxAccept {
			var element string
			element, line, _ = strings.Cut(line, ",")
			elements++
			name, params, _ := strings.Cut(element, ";")
			q, ok := parseQ(params)
			if name = trim(name); !ok || name == "" {
				continue
			}
			if name == "*" {
				star = q
			} else if c, known := parseCoding(name); known && out[c] == unsaid {
				out[c] = q
			}
		}
	}
	for c := range out {
		if out[c] == unsaid && star != unsaid && (coding(c) != identity || star == 0) {
			out[c] = star
		}
	}
	return out
}

func trim(s string) string { return strings.Trim(s, " \t") }

// parseQ reads a weight (RFC 9110 §12.4.2). Nothing is 1.
func parseQ(s string) (weight, bool) {
	s = trim(s)
	if s == "" {
		return 1000, true
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(trim(name), "q") {
		return 0, false
	}
	value = trim(value)
	if value == "" || value[0] != '0' && value[0] != '1' || len(value) > 5 || len(value) > 1 && value[1] != '.' {
		return 0, false
	}
	q := weight(value[0]-'0') * 1000
	unit := weight(100)
	for i := 2; i < len(value); i++ {
		if value[i] < '0' || value[i] > '9' {
			return 0, false
		}
		q += weight(value[i]-'0') * unit
		unit /= 10
	}
	return q, q <= 1000
}

// choose picks of the codings offered the one that the client wants most; of equals the
// first. identity is acceptable unless the client says otherwise, and preferred only
// where the client says so. ok is false where nothing is acceptable.
func (a accepted) choose(offered []coding) (best coding, ok bool) {
	q := max(a[identity], 0)
	ok = a[identity] != 0
	for _, c := range offered {
		if w := a[c]; w > q || w > 0 && w == q && best == identity { // of equals the smaller form
			best, q, ok = c, w, true
		}
	}
	return best, ok
}

// hasToken says whether lists with commas have an element, whatever the case of its letters.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for element := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(trim(element), token) {
				return true
			}
		}
	}
	return false
}
