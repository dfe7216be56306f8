package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// setScalar parses v (a string, integer or boolean of TOML, or text of the
// environment) into out. The error says what was expected.
func setScalar(out reflect.Value, v any, text bool) error {
	switch dst := out.Addr().Interface().(type) {
	case *time.Duration:
		d, err := parseDuration(v)
		*dst = d
		return err
	case *Size:
		n, err := parseSize(v)
		*dst = n
		return err
	case *netip.Prefix:
		p, err := parsePrefix(v)
		*dst = p
		return err
	case *netip.Addr:
		a, err := parseAddr(v)
		*dst = a
		return err
	case *netip.AddrPort:
		a, err := ParseAddrPort(v)
		*dst = a
		return err
	case *Address:
		a, err := ParseAddress(v)
		*dst = a
		return err
	case *string:
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("got %s, expected a string in quotes", describe(v))
		}
		*dst = s
		return nil
	case *bool:
		b, err := parseBool(v, text)
		*dst = b
		return err
	case *int:
		n, err := parseInt(v, text)
		*dst = n
		return err
	}
	panic("config: no parser for " + out.Type().String())
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return "the number " + strconv.FormatFloat(v, 'g', -1, 64)
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	case time.Time:
		return "a date"
	}
	return fmt.Sprintf("%v", v)
}

func parseBool(v any, text bool) (bool, error) {
	if b, ok := v.(bool); ok {
		return b, nil
	}
	if s, ok := v.(string); ok && text {
		if b, err := strconv.ParseBool(s); err == nil {
			return b, nil
		}
	}
	return false, fmt.Errorf("got %s, expected true or false", describe(v))
}

func parseInt(v any, text bool) (int, error) {
	switch v := v.(type) {
	case int64:
		return int(v), nil
	case string:
		if n, err := strconv.Atoi(v); text && err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("got %s, expected an integer", describe(v))
}

func parseDuration(v any) (time.Duration, error) {
	const want = "expected a duration such as \"5s\" or \"200ms\", or milliseconds as an integer"
	var d time.Duration
	switch v := v.(type) {
	case int64:
		if v > int64(math.MaxInt64/time.Millisecond) || v < 0 {
			return 0, fmt.Errorf("%d is out of range, %s", v, want)
		}
		return time.Duration(v) * time.Millisecond, nil
	case string:
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			return parseDuration(n)
		}
		var err error
		if d, err = time.ParseDuration(v); err != nil || d < 0 {
			return 0, fmt.Errorf("got %q, %s", v, want)
		}
		return d, nil
	}
	return 0, fmt.Errorf("got %s, %s", describe(v), want)
}

var units = []struct {
	name  string
	bytes int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

func parseSize(v any) (Size, error) {
	const want = "expected a size such as \"64KiB\", \"16MiB\" or bytes as an integer"
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return 0, fmt.Errorf("got %d, %s", v, want)
		}
		return Size(v), nil
	case string:
		digits := strings.TrimRight(v, "KMGTBikm ")
		unit := strings.TrimSpace(v[len(digits):])
		n, err := strconv.ParseInt(digits, 10, 64)
		for _, u := range units {
			if err == nil && u.name == unit && n >= 0 && n <= math.MaxInt64/u.bytes {
				return Size(n * u.bytes), nil
			}
		}
		return 0, fmt.Errorf("got %q, %s", v, want)
	}
	return 0, fmt.Errorf("got %s, %s", describe(v), want)
}

func parsePrefix(v any) (netip.Prefix, error) {
	const want = "expected an address with prefix length such as \"198.18.0.1/24\" or \"2001:db8::1/64\""
	s, ok := v.(string)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("got %s, %s", describe(v), want)
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("got %q, %s", s, want)
	}
	return p, nil
}

func parseAddr(v any) (netip.Addr, error) {
	const want = "expected an address such as \"198.18.0.254\" or \"2001:db8::fe\""
	s, ok := v.(string)
	if ok && s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if !ok || err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("got %s, %s", describe(v), want)
	}
	return a, nil
}

// ParseAddrPort reads "198.18.0.1:7700", "[2001:db8::1]:7700" or ":7700" (any
// address: [::] as IPv6 unspecified stands for both families).
func ParseAddrPort(v any) (netip.AddrPort, error) {
	const want = "expected an address and port such as \"198.18.0.1:7700\", \"[2001:db8::1]:7700\" or \":7700\""
	s, ok := v.(string)
	if ok && s == "" {
		return netip.AddrPort{}, nil
	}
	full := s
	if strings.HasPrefix(s, ":") {
		full = "[::]" + s
	}
	a, err := netip.ParseAddrPort(full)
	if !ok || err != nil || a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().Is4In6() {
		return netip.AddrPort{}, fmt.Errorf("got %s, %s", describe(v), want)
	}
	return a, nil
}

// cpuList reads what the kernel calls a list of CPUs: numbers and ranges with commas.
func cpuList(s string) (any, bool) {
	var list []any
	for _, f := range strings.Split(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(f), "-")
		lo, err := strconv.ParseInt(first, 10, 64)
		hi := lo
		if isRange && err == nil {
			hi, err = strconv.ParseInt(last, 10, 64)
		}
		if err != nil || lo < 0 || hi < lo || hi-lo >= 4096 || len(list) > 4096 {
			return nil, false
		}
		for n := lo; n <= hi; n++ {
			list = append(list, n)
		}
	}
	return list, true
}

func parseCPUs(v any, text bool) (CPUs, error) {
	const want = "expected CPUs such as \"1-3\", \"0,2-3\" or [0, 1], or a count from 1 to 64"
	if s, ok := v.(string); ok {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && text {
			v = n // a count, as without quotes
		} else if v, ok = cpuList(s); !ok {
			return nil, fmt.Errorf("got %q, %s", s, want)
		}
	}
	var out CPUs
	switch v := v.(type) {
	case int64:
		if v < 1 || v > 64 {
			return nil, fmt.Errorf("got %d, %s", v, want)
		}
		for range int(v) {
			out = append(out, AnyCPU)
		}
		return out, nil
	case []any:
		seen := map[int64]bool{}
		for _, e := range v {
			n, ok := e.(int64)
			if !ok || n < 0 || n > 4095 {
				return nil, fmt.Errorf("got %s in the list, %s", describe(e), want)
			}
			if seen[n] {
				return nil, fmt.Errorf("CPU %d is listed twice, expected each CPU once", n)
			}
			seen[n] = true
			out = append(out, int(n))
		}
		if len(out) >= 1 && len(out) <= 64 {
			return out, nil
		}
	}
	return nil, fmt.Errorf("got %s, %s", describe(v), want)
}

// format writes a value as it would stand in TOML.
func format(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return strconv.Quote(shortDuration(x))
	case Size:
		return formatSize(x)
	case CPUs:
		if x.Counted() {
			return strconv.Itoa(len(x))
		}
		return strings.ReplaceAll(fmt.Sprint([]int(x)), " ", ", ")
	case netip.AddrPort:
		return strconv.Quote(AddrPortString(x))
	case netip.Addr:
		if !x.IsValid() {
			return `""`
		}
		return strconv.Quote(x.String())
	case netip.Prefix:
		return strconv.Quote(x.String())
	case Address:
		return strconv.Quote(string(x))
	case string:
		return strconv.Quote(x)
	}
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = format(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}

func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return strings.Replace(s, "µs", "us", 1)
}

func formatSize(n Size) string {
	for i := 3; i >= 0; i-- {
		if u := units[i]; n > 0 && int64(n)%u.bytes == 0 {
			return fmt.Sprintf("%q", fmt.Sprint(int64(n)/u.bytes, u.name))
		}
	}
	return strconv.FormatInt(int64(n), 10)
}

// AddrPortString is the form of listeners: ":7700" for any address.
func AddrPortString(a netip.AddrPort) string {
	switch {
	case !a.IsValid():
		return ""
	case a.Addr() == netip.IPv6Unspecified():
		return fmt.Sprintf(":%d", a.Port())
	}
	return a.String()
}

// checkRange tests min, max and oneof of a field's tag.
func checkRange(v reflect.Value, tag reflect.StructTag) error {
	if words := tag.Get("oneof"); words != "" {
		list := strings.Split(words, "|")
		for _, w := range list {
			if v.String() == w {
				return nil
			}
		}
		hint := ""
		if n := nearest(v.String(), list); n != "" {
			hint = fmt.Sprintf(" (did you mean %q?)", n)
		}
		return fmt.Errorf("got %q, expected one of %s%s", v.String(), strings.Join(list, ", "), hint)
	}
	if !v.CanInt() {
		return nil
	}
	lo, okLo := bound(v, tag.Get("min"))
	hi, okHi := bound(v, tag.Get("max"))
	if okLo && v.Int() < lo.Int() || okHi && v.Int() > hi.Int() {
		var want []string
		if okLo {
			want = append(want, "at least "+format(lo))
		}
		if okHi {
			want = append(want, "at most "+format(hi))
		}
		return errors.New("got " + format(v) + ", expected " + strings.Join(want, " and "))
	}
	return nil
}

// bound parses a tag's limit as a value of v's type.
func bound(v reflect.Value, tag string) (reflect.Value, bool) {
	out := reflect.New(v.Type()).Elem()
	if tag == "" {
		return out, false
	}
	if err := setScalar(out, tag, true); err != nil {
		panic("config: schema: " + err.Error())
	}
	return out, true
}
