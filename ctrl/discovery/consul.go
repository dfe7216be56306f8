package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/np-appliance/np/ctrl/upstream"
)

// Consul is a [upstream.Source] of the healthy instances of a service, by blocking queries
// of /v1/health/service.
type Consul struct {
	Address    string // HOST:PORT of an agent; required
	TLS        *TLS   // nil: plain
	TokenFile  string // of an ACL token, read for each request; "": none
	Service    string // required
	Tags       []string
	Datacenter string        // "": the agent's
	Warning    bool          // take instances with warnings too, with the weight that the service gives those
	KeepLast   bool          // no instances any more: the list before stays
	Wait       time.Duration // of one blocking query; 55 s
	Pause      time.Duration // between queries at least, while the index runs; 200 ms

	Dial  upstream.DialFunc
	Clock upstream.Clock
	Rand  func() uint64

	feed
	api api
}

const (
	consulBody    = 32 << 20 // bytes of an answer: 10,000 instances of 3 KiB
	maxInstances  = 10 * upstream.MaxEndpoints
	consulTimeout = 10 * time.Second // beyond the time that the server may wait
)

func (c *Consul) defaults() error {
	defaultTo(&c.Wait, 55*time.Second)
	defaultTo(&c.Pause, 200*time.Millisecond)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Clock == nil {
		c.Clock = upstream.SystemClock{}
	}
	if c.Rand == nil {
		c.Rand = randomBits
	}
	if err := checkServer(c.Address); err != nil {
		return fmt.Errorf("consul: %w", err)
	}
	switch {
	case c.Service == "" || len(c.Service) > 255:
		return errors.New("consul: expected the name of a service")
	case c.Wait < time.Millisecond || c.Wait > 10*time.Minute:
		return fmt.Errorf("consul: wait %v: expected 1ms to 10m", c.Wait)
	case c.Pause < time.Millisecond:
		return fmt.Errorf("consul: pause %v: expected at least 1ms", c.Pause)
	}
	c.api = api{address: c.Address, tls: c.TLS, tokenFile: c.TokenFile, header: "X-Consul-Token", dial: c.Dial}
	return nil
}

// Run implements [upstream.Source].
func (c *Consul) Run(ctx context.Context, apply func([]upstream.Spec) error, report func(error)) error {
	if err := c.defaults(); err != nil {
		return err
	}
	defer c.api.close()
	c.begin(c.Clock, keeping(c.KeepLast), apply, func(err error) { report(fmt.Errorf("consul %s: %w", c.Service, err)) })
	again := backoff{min: time.Second, max: 30 * time.Second}
	index := uint64(0)
	for {
		specs, next, wrong, err := c.query(ctx, index)
		pause := c.Pause
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.api.close()
			c.fail(err)
			pause, index = again.next(c.Rand()), 0
		default:
			again.ok()
			c.put(specs, false, wrong)
			index = nextIndex(index, next)
		}
		if !sleep(ctx, c.Clock, pause) {
			return nil
		}
	}
}

// nextIndex is what to wait for after an answer with index next. One that went back is of
// a server that lost its state: ask again without waiting. 0 would never wait.
func nextIndex(index, next uint64) uint64 {
	if next < index {
		return 0
	}
	return max(1, next)
}

func (c *Consul) query(ctx context.Context, index uint64) (specs []upstream.Spec, next uint64, wrong, err error) {
	q := url.Values{}
	if !c.Warning {
		q.Set("passing", "true")
	}
	if c.Datacenter != "" {
		q.Set("dc", c.Datacenter)
	}
	for _, t := range c.Tags {
		q.Add("tag", t)
	}
	wait := time.Duration(0)
	if index != 0 {
		wait = c.Wait + c.Wait/16 // which the server adds to spread its answers
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", fmt.Sprintf("%dms", c.Wait.Milliseconds()))
	}
	ctx, cancel := context.WithTimeout(ctx, wait+consulTimeout)
	defer cancel()
	res, err := c.api.get(ctx, "/v1/health/service/"+c.Service, q)
	if err != nil {
		return nil, 0, nil, err
	}
	defer res.Body.Close()
	next, err = strconv.ParseUint(res.Header.Get("X-Consul-Index"), 10, 64)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("X-Consul-Index %.30q: expected a number", res.Header.Get("X-Consul-Index"))
	}
	specs, wrong, err = readInstances(limit(res.Body, consulBody), c.Warning)
	return specs, next, wrong, err
}

// instance is what is used of an entry of Consul's answer.
type instance struct {
	Node struct {
		Address    string
		Datacenter string
	}
	Service struct {
		ID      string
		Address string
		Port    int
		Weights struct {
			Passing *int
			Warning *int
		}
	}
	Checks []struct {
		Status string
	}
}

// readInstances reads an answer. wrong is about instances that are left out; err about
// the whole.
func readInstances(r io.Reader, warning bool) (specs []upstream.Spec, wrong, err error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, nil, fmt.Errorf("answer: expected a JSON array of instances: %w", orUnexpected(err))
	}
	var f faults
	for n := 0; d.More(); n++ {
		if n == maxInstances {
			return nil, nil, fmt.Errorf("more than %d instances", maxInstances)
		}
		var i instance
		if err := d.Decode(&i); err != nil {
			return nil, nil, fmt.Errorf("answer: %w", err)
		}
		s, use, err := i.spec(warning)
		switch {
		case err != nil:
			f.add(fmt.Errorf("instance %.100q: %w", i.Service.ID, err))
		case use:
			specs = append(specs, s)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, fmt.Errorf("answer: %w", err)
	}
	return specs, f.err(), nil
}

func orUnexpected(err error) error {
	if err == nil {
		return errors.New("it is another value")
	}
	return err
}

// spec is the endpoint that an instance is, unless a check says that it is not to be used.
func (i *instance) spec(warning bool) (s upstream.Spec, use bool, err error) {
	weight := i.Service.Weights.Passing
	for _, c := range i.Checks {
		switch {
		case c.Status == "passing":
		case c.Status == "warning" && warning:
			weight = i.Service.Weights.Warning
		default:
			return s, false, nil
		}
	}
	host := i.Service.Address
	if host == "" {
		host = i.Node.Address
	}
	s = upstream.Spec{Weight: 1, Locality: i.Node.Datacenter}
	if weight != nil {
		if *weight == 0 {
			return s, false, nil // takes nothing, as it is meant
		}
		if *weight < 0 {
			return s, false, fmt.Errorf("weight %d: expected 0 or more", *weight)
		}
		s.Weight = min(*weight, upstream.MaxWeight)
	}
	s.Address, err = endpointAddress(strings.TrimSuffix(host, "."), i.Service.Port)
	return s, err == nil, err
}
