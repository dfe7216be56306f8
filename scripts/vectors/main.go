// Command vectors flattens files of test vectors in Wycheproof's JSON into
// blocks of "name = value" lines, which the C tests can read without a JSON
// parser: `vectors OUT_DIR FILE.json...` writes OUT_DIR/FILE.txt for each file.
//
// A block is one test: its group's scalar fields, then its own, sorted by name
// within each; blocks are separated by an empty line.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

type file struct {
	Groups []map[string]json.RawMessage `json:"testGroups"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: vectors OUT_DIR FILE.json...")
		os.Exit(2)
	}
	for _, in := range os.Args[2:] {
		out := filepath.Join(os.Args[1], strings.TrimSuffix(filepath.Base(in), ".json")+".txt")
		if err := convert(in, out); err != nil {
			fmt.Fprintf(os.Stderr, "vectors: %v\n", err)
			os.Exit(1)
		}
	}
}

func convert(in, out string) error {
	data, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("read vectors: %w", err)
	}
	text, err := flatten(data)
	if err != nil {
		return fmt.Errorf("flatten %s: %w", in, err)
	}
	if err := os.WriteFile(out, text, 0o644); err != nil {
		return fmt.Errorf("write vectors: %w", err)
	}
	return nil
}

func flatten(data []byte) ([]byte, error) {
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	var buf bytes.Buffer
	for i, group := range f.Groups {
		var tests []map[string]json.RawMessage
		if err := json.Unmarshal(group["tests"], &tests); err != nil {
			return nil, fmt.Errorf("parse tests of group %d: %w", i, err)
		}
		for _, test := range tests {
			writeScalars(&buf, group)
			writeScalars(&buf, test)
			buf.WriteByte('\n')
		}
	}
	if buf.Len() == 0 {
		return nil, fmt.Errorf("no tests in testGroups")
	}
	return buf.Bytes(), nil
}

// writeScalars leaves out what is not a string, number or truth value, and text
// that would not fit on a line.
func writeScalars(buf *bytes.Buffer, fields map[string]json.RawMessage) {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		raw := fields[name]
		var value any
		if json.Unmarshal(raw, &value) != nil {
			continue
		}
		switch v := value.(type) {
		case string:
			if !strings.ContainsAny(v, "\r\n") {
				fmt.Fprintf(buf, "%s = %s\n", name, v)
			}
		case float64, bool:
			fmt.Fprintf(buf, "%s = %s\n", name, raw) // as written, no rounding
		}
	}
}
