package config

import (
	"slices"
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		cores  string
		usable []int
		want   []int // nil: an error that says
		err    string
	}{
		{"1", []int{0, 1}, []int{0}, ""},
		{"2", []int{2, 3, 5}, []int{2, 3}, ""}, // a cpuset without CPU 0
		{"4", []int{0, 1}, []int{0, 1, 0, 1}, ""},
		{"3", []int{7}, []int{7, 7, 7}, ""},
		{"\"1-2\"", []int{0, 1, 2}, []int{1, 2}, ""},
		{"[2, 0]", []int{0, 1, 2}, []int{2, 0}, ""},
		{"\"1-3\"", []int{0, 1}, nil, "CPU 2"},
		{"[9]", []int{0, 1, 2, 5}, nil, "0-2,5"},
		{"1", nil, nil, "no CPU"},
	} {
		cfg, err := load(t, "[dataplane]\ncores = "+c.cores+"\n[[interface]]\nname = \"np0\"\naddresses = \"198.18.0.1/24\"\n")
		if err != nil {
			t.Fatal(err)
		}
		got, err := cfg.Dataplane.Cores.Place(c.usable)
		if c.want == nil && (err == nil || !strings.Contains(err.Error(), c.err)) || c.want != nil && (err != nil || !slices.Equal(got, c.want)) {
			t.Errorf("%s of %v: %v, %v", c.cores, c.usable, got, err)
		}
	}
}
