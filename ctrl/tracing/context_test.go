package tracing

import (
	"net/http"
	"strings"
	"testing"
)

const goodParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// TestParseParent goes through W3C's rules (§3.2.2, §4.3).
func TestParseParent(t *testing.T) {
	for s, good := range map[string]bool{
		goodParent: true,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00":      true,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff":      true, // flags that nobody knows
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      true, // a version to come
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what": true,
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what": false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what": false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-":     false,
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-B7ad6b7169203331-01":      false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0x":      false,
		"00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01":      false,
		"00-0af7651916cd43dd8448eb211c80319-b7ad6b71692033311-01":      false,
		" " + goodParent: false,
		"":               false,
		"00":             false,
	} {
		c, err := ParseParent(s)
		if (err == nil) != good || c.Valid() != good {
			t.Errorf("%q: %+v, %v", s, c, err)
		}
	}
	c, _ := ParseParent(goodParent)
	if got := string(c.AppendParent(nil)); got != goodParent || !c.Sampled {
		t.Errorf("%s", got)
	}
}

func TestParseState(t *testing.T) {
	long := strings.Repeat("a", 256)
	many := make([]string, 33)
	for i := range many {
		many[i] = string(rune('a'+i%26)) + strings.Repeat("x", i/26) + "=1"
	}
	for _, one := range []struct {
		in   []string
		want string
		good bool
	}{
		{nil, "", true},
		{[]string{"a=1"}, "a=1", true},
		{[]string{"a=1,b=2", "c=3"}, "a=1,b=2,c=3", true},
		{[]string{" a=1 ,\t,b= 2 2"}, "a=1,b= 2 2", true},
		{[]string{"", ","}, "", true},
		{[]string{"a_-*/1=x", "0tenant@sys=~!"}, "a_-*/1=x,0tenant@sys=~!", true},
		{[]string{long + "=1"}, long + "=1", true},
		{[]string{long + "a=1"}, "", false},
		{[]string{"a=" + long}, "a=" + long, true},
		{[]string{"a=" + long + "1"}, "", false},
		{[]string{"a=1,a=2"}, "", false},
		{[]string{"A=1"}, "", false},
		{[]string{"1=1"}, "", false},
		{[]string{"a@1=1"}, "", false},
		{[]string{"a@b@c=1"}, "", false},
		{[]string{"a@=1"}, "", false},
		{[]string{"@a=1"}, "", false},
		{[]string{"a@abcdefghijklmno=1"}, "", false},
		{[]string{"a="}, "", false},
		{[]string{"=1"}, "", false},
		{[]string{"a"}, "", false},
		{[]string{"a=1=2"}, "", false},
		{[]string{"a=\x7f"}, "", false},
		{[]string{"a=ü"}, "", false},
		{[]string{"a =1"}, "", false},
		{many[:32], strings.Join(many[:32], ","), true},
		{many, "", false},
		{[]string{"a=" + strings.Repeat("1", 200), "b=2", "c=" + strings.Repeat("3", 250), "d=" + strings.Repeat("4", 100)}, "a=" + strings.Repeat("1", 200) + ",b=2,d=" + strings.Repeat("4", 100), true},
		{[]string{"a=" + strings.Repeat("1", 120), "b=" + strings.Repeat("1", 120), "c=" + strings.Repeat("1", 120), "d=" + strings.Repeat("1", 120), "e=" + strings.Repeat("1", 120)},
			"a=" + strings.Repeat("1", 120) + ",b=" + strings.Repeat("1", 120) + ",c=" + strings.Repeat("1", 120) + ",d=" + strings.Repeat("1", 120), true},
	} {
		got, err := ParseState(one.in)
		if got != one.want || (err == nil) != one.good {
			t.Errorf("%q: %q, %v; want %q", one.in, got, err, one.want)
		}
	}
}

func TestExtractAndInject(t *testing.T) {
	h := http.Header{}
	if c, err := Extract(h); c.Valid() || err != nil {
		t.Errorf("nothing: %+v, %v", c, err)
	}
	h.Set("traceparent", goodParent)
	h.Add("tracestate", "a=1")
	h.Add("tracestate", "b=2")
	c, err := Extract(h)
	if err != nil || !c.Valid() || c.State != "a=1,b=2" {
		t.Fatalf("%+v, %v", c, err)
	}
	out := http.Header{}
	c.Inject(out)
	if out.Get("traceparent") != goodParent || out.Get("tracestate") != "a=1,b=2" {
		t.Error(out)
	}
	h.Set("tracestate", "A=1")
	if c, err := Extract(h); err != nil || !c.Valid() || c.State != "" {
		t.Errorf("state that is none: %+v, %v", c, err)
	} else if c.Inject(out); len(out) != 1 {
		t.Error(out)
	}
	h.Add("traceparent", goodParent)
	if c, err := Extract(h); err == nil || c.Valid() {
		t.Errorf("two parents: %+v", c)
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add(goodParent)
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseParent(s)
		if c.Valid() != (err == nil) {
			t.Fatalf("%q: %+v, %v", s, c, err)
		}
		if err != nil {
			return
		}
		again, err := ParseParent(string(c.AppendParent(nil)))
		if err != nil || again != c {
			t.Fatalf("%q: %+v, then %+v (%v)", s, c, again, err)
		}
		if s[:3] == "00-" && s[:53] != string(c.AppendParent(nil))[:53] {
			t.Fatalf("%q is written as %s", s, c.AppendParent(nil))
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add("a=1,b=2", "c@d=3")
	f.Add(strings.Repeat("a=1,", 40), "")
	f.Add(" , ,", "\xff=\x00")
	f.Fuzz(func(t *testing.T, a, b string) {
		s, err := ParseState([]string{a, b})
		if err != nil {
			if s != "" {
				t.Fatalf("%q with %v", s, err)
			}
			return
		}
		if len(s) > max(maxState, maxKey+maxValue+1) || strings.Count(s, ",") >= maxMembers {
			t.Fatalf("%d bytes: %q", len(s), s)
		}
		if again, err := ParseState([]string{s}); again != s || err != nil {
			t.Fatalf("%q, then %q (%v)", s, again, err)
		}
	})
}

func BenchmarkExtract(b *testing.B) {
	h := http.Header{Traceparent: {goodParent}, Tracestate: {"vendor=value,other@x=1"}}
	b.ReportAllocs()
	for b.Loop() {
		if c, err := Extract(h); err != nil || !c.Valid() {
			b.Fatal(err)
		}
	}
}
