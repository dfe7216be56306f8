package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Counted says whether the CPUs were written as a count.
func (c CPUs) Counted() bool { return len(c) > 0 && c[0] == AnyCPU }

// Place chooses the CPUs of the cores among those given: of a count the first ones, again from
// the first where there are more cores than CPUs. A CPU that is listed and not given is an error.
func (c CPUs) Place(usable []int) ([]int, error) {
	if len(usable) == 0 {
		return nil, fmt.Errorf("there is no CPU that this process may use")
	}
	out := slices.Clone([]int(c))
	for i, cpu := range c {
		if c.Counted() {
			out[i] = usable[i%len(usable)]
		} else if !slices.Contains(usable, cpu) {
			return nil, fmt.Errorf("there is no CPU %d, expected some of %s", cpu, CPUList(usable))
		}
	}
	return out, nil
}

// CPUList writes CPUs as the kernel does: "0-2,5".
func CPUList(cpus []int) string {
	cpus = slices.Clone(cpus)
	slices.Sort(cpus)
	var out []string
	for i := 0; i < len(cpus); {
		last := i
		for last+1 < len(cpus) && cpus[last+1] == cpus[last]+1 {
			last++
		}
		s := strconv.Itoa(cpus[i])
		if last > i {
			s += "-" + strconv.Itoa(cpus[last])
		}
		out = append(out, s)
		i = last + 1
	}
	return strings.Join(out, ",")
}
