package discovery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/np-appliance/np/ctrl/upstream"
)

const maxValue = 64 << 10 // bytes of one key's value

// value is the JSON form of an endpoint. Addr with its companions is what etcd's own
// naming library writes.
type value struct {
	Address  string `json:"address"`
	Weight   *int   `json:"weight"`
	Priority int    `json:"priority"`
	Locality string `json:"locality"`
	Drain    bool   `json:"drain"`
	Disabled bool   `json:"disabled"`

	Addr     string          `json:"Addr"`
	Op       json.RawMessage `json:"Op"`
	Metadata json.RawMessage `json:"Metadata"`
}

// parseValue reads an endpoint: a line as files of endpoints have (see [upstream.Parse]),
// or a JSON object.
func parseValue(b []byte) (upstream.Spec, error) {
	if len(b) > maxValue {
		return upstream.Spec{}, fmt.Errorf("value of %d bytes: expected at most %d", len(b), maxValue)
	}
	b = bytes.TrimSpace(b)
	if len(b) > 0 && b[0] == '{' {
		return parseJSON(b)
	}
	specs, err := upstream.Parse("value", string(b))
	if err != nil {
		return upstream.Spec{}, err
	}
	if len(specs) != 1 {
		return upstream.Spec{}, fmt.Errorf("value with %d endpoints: expected one", len(specs))
	}
	return specs[0], nil
}

func parseJSON(b []byte) (upstream.Spec, error) {
	var v value
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return upstream.Spec{}, fmt.Errorf("value: %w, expected an object with address, weight, priority, locality, drain, disabled", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return upstream.Spec{}, errors.New("value: expected nothing after the JSON object")
	}
	if v.Address == "" {
		v.Address = v.Addr
	}
	weight := 1
	if v.Weight != nil {
		weight = *v.Weight
	}
	s := upstream.Spec{Address: v.Address, Weight: weight, Priority: v.Priority, Locality: v.Locality, Drain: v.Drain, Disabled: v.Disabled}
	switch {
	case weight < 1 || weight > upstream.MaxWeight:
		return s, fmt.Errorf("weight %d: expected 1 to %d", weight, upstream.MaxWeight)
	case s.Priority < 0 || s.Priority > upstream.MaxPriority:
		return s, fmt.Errorf("priority %d: expected 0 to %d", s.Priority, upstream.MaxPriority)
	}
	return s, upstream.CheckAddress(s.Address)
}
