package doctor

// Fixed is what became of one fix.
type Fixed struct {
	Result Result // what it is for
	Err    error  // nil: done
	Agreed bool   // false: the operator said no
}

// Apply runs the fixes there are, each when ask agrees.
func Apply(list []Result, ask func(*Fix) bool) []Fixed {
	var out []Fixed
	for _, r := range list {
		if r.Fix == nil || r.Level == OK {
			continue
		}
		f := Fixed{Result: r, Agreed: ask(r.Fix)}
		if f.Agreed {
			f.Err = r.Fix.Do()
		}
		out = append(out, f)
	}
	return out
}
