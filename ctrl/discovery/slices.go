package discovery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// slice is what is used of an EndpointSlice of discovery.k8s.io/v1.
type slice struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string `json:"addressType"`
	Endpoints   []struct {
		Addresses  []string `json:"addresses"`
		Conditions struct {
			Ready       *bool `json:"ready"`
			Serving     *bool `json:"serving"`
			Terminating *bool `json:"terminating"`
		} `json:"conditions"`
		Zone string `json:"zone"`
	} `json:"endpoints"`
	Ports []slicePort `json:"ports"`
}

type slicePort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
}

// list reads all slices of the service, page by page.
func (k *Kubernetes) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, kubeTimeout)
	defer cancel()
	found := map[string]*slice{}
	more, version := "", ""
	for range maxSlices/kubePage + 2 {
		q := url.Values{"labelSelector": {"kubernetes.io/service-name=" + k.Service}, "limit": {strconv.Itoa(kubePage)}}
		if more != "" {
			q.Set("continue", more)
		}
		page, err := k.page(ctx, q)
		if err != nil {
			return err
		}
		for _, s := range page.Items {
			found[s.Metadata.Name] = &s
		}
		version, more = page.Metadata.ResourceVersion, page.Metadata.Continue
		if len(found) > maxSlices {
			return errTooMany
		}
		if more == "" {
			if version == "" {
				return errors.New("answer: expected metadata.resourceVersion")
			}
			k.slices, k.version = found, version
			return nil
		}
	}
	return errTooMany
}

var errTooMany = fmt.Errorf("more than %d EndpointSlices", maxSlices)

type sliceList struct {
	Kind     string `json:"kind"`
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
		Continue        string `json:"continue"`
	} `json:"metadata"`
	Items []slice `json:"items"`
}

func (k *Kubernetes) path() string {
	return "/apis/discovery.k8s.io/v1/namespaces/" + k.namespace + "/endpointslices"
}

func (k *Kubernetes) page(ctx context.Context, q url.Values) (*sliceList, error) {
	res, err := k.api.get(ctx, k.path(), q)
	if err != nil {
		return nil, gone(err)
	}
	defer res.Body.Close()
	var l sliceList
	if err := json.NewDecoder(limit(res.Body, kubeBody)).Decode(&l); err != nil {
		return nil, fmt.Errorf("answer: %w", err)
	}
	if l.Kind != "EndpointSliceList" {
		return nil, fmt.Errorf("answer of kind %.100q: expected EndpointSliceList", l.Kind)
	}
	return &l, nil
}

// gone tells a history that is gone (410) from other errors.
func gone(err error) error {
	var s *statusError
	if errors.As(err, &s) && s.code == http.StatusGone {
		return errGone
	}
	return err
}

// watch follows changes until the server ends the watch, which is no error.
func (k *Kubernetes) watch(ctx context.Context) error {
	// Not all gateways at once: between a half and all of the time.
	d := k.Watch - time.Duration(k.Rand()%uint64(k.Watch/2+1))
	seconds := max(1, int(d/time.Second))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+kubeTimeout)
	defer cancel()
	res, err := k.api.get(ctx, k.path(), url.Values{
		"labelSelector": {"kubernetes.io/service-name=" + k.Service}, "watch": {"true"}, "allowWatchBookmarks": {"true"},
		"resourceVersion": {k.version}, "timeoutSeconds": {strconv.Itoa(seconds)},
	})
	if err != nil {
		return gone(err)
	}
	defer res.Body.Close()
	k.publish()
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(make([]byte, 0, 64<<10), kubeLine)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		if err := k.event(lines.Bytes()); err != nil {
			return err
		}
		k.publish() // of a bookmark too: it confirms the list
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("event of more than %d bytes", kubeLine)
	}
	// A stream that breaks is as one that ends: the next watch tells what is wrong.
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}

type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

// event takes one line of a watch.
func (k *Kubernetes) event(line []byte) error {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if e.Type == "ERROR" {
		var status struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(e.Object, &status); err != nil {
			return fmt.Errorf("event: %w", err)
		}
		return gone(&statusError{status.Code, status.Message})
	}
	var s slice
	if err := json.Unmarshal(e.Object, &s); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if s.Metadata.ResourceVersion == "" {
		return fmt.Errorf("event %.30q: expected metadata.resourceVersion", e.Type)
	}
	switch e.Type {
	case "ADDED", "MODIFIED":
		k.slices[s.Metadata.Name] = &s
		if len(k.slices) > maxSlices {
			return errTooMany
		}
	case "DELETED":
		delete(k.slices, s.Metadata.Name)
	case "BOOKMARK":
	default:
		return fmt.Errorf("event of type %.30q: expected ADDED, MODIFIED, DELETED, BOOKMARK or ERROR", e.Type)
	}
	k.version = s.Metadata.ResourceVersion
	return nil
}

// merge makes one list of all slices. An endpoint may be in several while it moves between
// them: the best that is said of it counts.
func merge(all map[string]*slice, port string, family Family) ([]upstream.Spec, error) {
	found := map[string]upstream.Spec{}
	var f faults
	conditions := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		if s.AddressType == "FQDN" || s.AddressType == "IPv6" && family == IPv4 || s.AddressType == "IPv4" && family == IPv6 {
			continue
		}
		if len(s.Endpoints) == 0 {
			continue // has no ports either while nothing is behind the service
		}
		p, err := s.port(port)
		if err != nil {
			f.add(fmt.Errorf("EndpointSlice %.100q: %w", name, err))
			continue
		}
		for _, e := range s.Endpoints {
			if conditions++; conditions > maxConditions {
				f.add(fmt.Errorf("more than %d endpoints in all EndpointSlices", maxConditions))
				return slices.Collect(maps.Values(found)), f.err()
			}
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := e.Conditions.Serving == nil && ready || e.Conditions.Serving != nil && *e.Conditions.Serving
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			drain := !ready && serving && terminating
			if !ready && !drain || len(e.Addresses) == 0 {
				continue
			}
			a, err := netip.ParseAddr(e.Addresses[0]) // all stand for the same endpoint
			if err == nil && (a.IsUnspecified() || a.IsMulticast() || a.Zone() != "") {
				err = errors.New("not of a host")
			}
			if err != nil {
				f.add(fmt.Errorf("EndpointSlice %.100q: address %.60q: expected one of a host", name, e.Addresses[0]))
				continue
			}
			spec := upstream.Spec{Address: netip.AddrPortFrom(a.Unmap(), p).String(), Weight: 1, Locality: e.Zone, Drain: drain}
			if old, ok := found[spec.Address]; !ok || old.Drain && !drain {
				found[spec.Address] = spec
			}
		}
	}
	return slices.Collect(maps.Values(found)), f.err()
}

// port finds the port by name or number, or the only one.
func (s *slice) port(want string) (uint16, error) {
	n, notNumber := strconv.Atoi(want)
	var at *slicePort
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Protocol != "" && p.Protocol != "TCP" {
			continue
		}
		if want == "" && at != nil {
			return 0, errors.New("several ports: expected the name or number of one to be given")
		}
		if want == "" || p.Name == want || notNumber == nil && p.Port == n {
			at = p
		}
	}
	if at == nil {
		return 0, fmt.Errorf("no TCP port %q: expected it among %d", want, len(s.Ports))
	}
	if at.Port < 1 || at.Port > 65535 {
		return 0, fmt.Errorf("port %d: expected 1 to 65535", at.Port)
	}
	return uint16(at.Port), nil
}
