package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table prints rows in aligned columns without boxes; numbers are right-aligned
// by the caller's choice of column.
type table struct {
	head  []string
	right []bool
	rows  [][]string
}

// newTable takes column names; one that starts with '>' is right-aligned.
func newTable(cols ...string) *table {
	t := &table{}
	for _, c := range cols {
		name, right := strings.CutPrefix(c, ">")
		t.head = append(t.head, strings.ToUpper(name))
		t.right = append(t.right, right)
	}
	return t
}

func (t *table) row(cells ...any) {
	r := make([]string, len(t.head))
	for i := range r {
		r[i] = "-"
		if i < len(cells) {
			if s := fmt.Sprint(cells[i]); s != "" {
				r[i] = s
			}
		}
	}
	t.rows = append(t.rows, r)
}

func (t *table) write(w io.Writer, headers bool) {
	width := make([]int, len(t.head))
	all := t.rows
	if headers {
		all = append([][]string{t.head}, t.rows...)
	}
	for _, r := range all {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, r := range all {
		var b strings.Builder
		for i, c := range r {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if i > 0 {
				b.WriteString("  ")
			}
			if t.right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// print writes one answer: v as JSON, its items as JSON lines, or the tables.
func (a *app) print(v any, items []any, tables ...*table) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	switch a.output {
	case "json":
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "jsonl":
		if items == nil {
			return enc.Encode(v)
		}
		for _, i := range items {
			if err := enc.Encode(i); err != nil {
				return err
			}
		}
		return nil
	}
	for i, t := range tables {
		if i > 0 {
			fmt.Fprintln(a.out)
		}
		t.write(a.out, !a.noHeaders)
	}
	return nil
}

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}

// bytesText prints bytes with a binary unit and three digits.
func bytesText(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, units := float64(n)/1024, "KMGTPE"
	for len(units) > 1 && v >= 1023.5 {
		v /= 1024
		units = units[1:]
	}
	if v >= 99.95 {
		return fmt.Sprintf("%.0f%ciB", v, units[0])
	}
	return fmt.Sprintf("%.1f%ciB", v, units[0])
}

// ago prints a span with the unit a person would pick.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
