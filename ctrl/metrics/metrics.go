package metrics

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/np-appliance/np/ctrl/gateway/server"
	"github.com/np-appliance/np/ctrl/ladder"
	"github.com/np-appliance/np/ctrl/plain"
	"github.com/np-appliance/np/ctrl/ports"
	"github.com/np-appliance/np/ctrl/secure"
	"github.com/np-appliance/np/ctrl/session"
	"github.com/np-appliance/np/dataplane"
	"github.com/np-appliance/np/dataplane/xdp"
)

// Source is where values come from.
type Source struct {
	Plane     dataplane.Plane
	Sessions  func() session.Stats
	Ports     func() []ports.Status
	Certs     func() []secure.Certificate
	Listeners func() []Listener // nil: none are told
	Gateway   func() *Gateway   // nil, or what it returns is: there is none
	Version   string
	Commit    string
}

// Listener is what the metrics tell of a listener.
type Listener struct {
	Name      string
	Requested string // backend
	Ladder    []ladder.Rung
	Service   *plain.Stats  // nil: it is in the data plane, which counts
	HTTP      *server.Stats // of protocol http, nil: another
}

const prefix = "np_"

// collector implements prometheus.Collector.
type collector struct {
	src      Source
	counters [dataplane.CounterCount]metric
	drops    *prometheus.Desc
	queue    []queueMetric
	port     []portMetric
	session  []sessionMetric
	service  []serviceMetric
	status   *prometheus.Desc
	refused  *prometheus.Desc
	up       *prometheus.Desc
	backend  *prometheus.Desc
	xdpDrops *prometheus.Desc
	xdpMode  *prometheus.Desc
	build    *prometheus.Desc
	cert     *prometheus.Desc
	gateway  *gatewayMetrics
}

type metric struct {
	desc  *prometheus.Desc
	typ   prometheus.ValueType
	scale float64
}

type queueMetric struct {
	metric
	get func(*dataplane.QueueStats) uint64
}

type portMetric struct {
	metric
	get func(*ports.Status) uint64
}

type sessionMetric struct {
	metric
	get func(*session.Stats) float64
}

type serviceMetric struct {
	metric
	get func(*plain.Stats) float64
}

// describe makes a metric of a name: counters end in _total, and nanoseconds
// become Prometheus's seconds.
func describe(name, help string, labels ...string) metric {
	m := metric{typ: prometheus.GaugeValue, scale: 1}
	if strings.HasSuffix(name, "_total") {
		m.typ = prometheus.CounterValue
	}
	if strings.Contains(name, "_nanoseconds") {
		name, m.scale = strings.Replace(name, "_nanoseconds", "_seconds", 1), 1e-9
	}
	m.desc = prometheus.NewDesc(prefix+name, help, labels, nil)
	return m
}

// New makes the collector.
func New(src Source) prometheus.Collector {
	c := &collector{src: src, gateway: newGatewayMetrics(),
		drops:    prometheus.NewDesc(prefix+"drops_total", "packets and messages dropped, by reason", []string{"core", "layer", "reason"}, nil),
		status:   prometheus.NewDesc(prefix+"responses_total", "responses of handlers, by status", []string{"status"}, nil),
		refused:  prometheus.NewDesc(prefix+"refused_total", "handshakes, messages and streams refused by the control plane, by reason", []string{"reason"}, nil),
		up:       prometheus.NewDesc(prefix+"interface_up", "1 when the interface carries traffic", []string{"interface"}, nil),
		backend:  prometheus.NewDesc(prefix+"backend_info", "backend in use by an interface or a listener; reason: why a better one is not", []string{"interface", "listener", "requested", "actual", "reason"}, nil),
		xdpDrops: prometheus.NewDesc(prefix+"xdp_dropped_packets_total", "packets the XDP program dropped, by reason", []string{"interface", "reason"}, nil),
		xdpMode:  prometheus.NewDesc(prefix+"xdp_mode_info", "mode of the XDP program, and why it is not native", []string{"interface", "mode", "reason"}, nil),
		build:    prometheus.NewDesc(prefix+"build_info", "version that runs", []string{"version", "commit"}, nil),
		cert:     prometheus.NewDesc(prefix+"certificate_not_after_timestamp_seconds", "when a TLS certificate ends, Unix time", []string{"file"}, nil),
	}
	for i := range c.counters {
		meta := dataplane.Counter(i).Meta()
		c.counters[i] = describe(meta.Name, meta.Help, "core")
	}
	q := func(name, help string, get func(*dataplane.QueueStats) uint64) {
		c.queue = append(c.queue, queueMetric{describe("queue_"+name, help, "interface", "queue", "core"), get})
	}
	q("rx_packets_total", "packets received", func(s *dataplane.QueueStats) uint64 { return s.RxPackets })
	q("rx_bytes_total", "bytes received", func(s *dataplane.QueueStats) uint64 { return s.RxBytes })
	q("tx_packets_total", "packets sent", func(s *dataplane.QueueStats) uint64 { return s.TxPackets })
	q("tx_bytes_total", "bytes sent", func(s *dataplane.QueueStats) uint64 { return s.TxBytes })
	q("rx_dropped_total", "packets the kernel dropped on the way to us", func(s *dataplane.QueueStats) uint64 { return s.RxDropped })
	q("rx_ring_full_total", "packets dropped because the receive ring was full", func(s *dataplane.QueueStats) uint64 { return s.RxRingFull })
	q("fill_ring_empty_total", "times the kernel found no buffer", func(s *dataplane.QueueStats) uint64 { return s.FillEmpty })
	q("tx_invalid_total", "descriptors the kernel refused", func(s *dataplane.QueueStats) uint64 { return s.TxInvalid })
	q("wakeups_total", "system calls that woke the kernel", func(s *dataplane.QueueStats) uint64 { return s.Wakeups })
	p := func(name, help string, get func(*ports.Status) uint64) {
		c.port = append(c.port, portMetric{describe("xdp_"+name, help, "interface"), get})
	}
	p("redirected_packets_total", "packets given to the appliance", func(s *ports.Status) uint64 { return s.Program.Redirected })
	p("copied_packets_total", "of the packets given to the kernel, those shown to the appliance too", func(s *ports.Status) uint64 { return s.Program.Copied })
	p("copies_lost_total", "packets that should have been shown to the appliance too and found no room", func(s *ports.Status) uint64 { return s.Program.CopyLost })
	p("passed_packets_total", "packets left to the kernel", func(s *ports.Status) uint64 { return s.Program.Passed })
	p("steered_packets_total", "packets for an own address left to the kernel, for a port of its", func(s *ports.Status) uint64 { return s.Program.Steered })
	p("errors_total", "packets too short to judge, left to the kernel", func(s *ports.Status) uint64 { return s.Program.Errors })
	s := func(name, help string, get func(*session.Stats) float64) {
		c.session = append(c.session, sessionMetric{describe(name, help), get})
	}
	s("connections_opened_total", "NPRO connections accepted", func(s *session.Stats) float64 { return float64(s.Opened) })
	s("connections_closed_total", "NPRO connections ended", func(s *session.Stats) float64 { return float64(s.Closed) })
	s("handshakes_in_flight", "handshakes begun and not ended", func(s *session.Stats) float64 { return float64(s.HandshakesInFlight) })
	s("requests_in_flight", "requests with a handler or waiting for one", func(s *session.Stats) float64 { return float64(s.Inflight) })
	s("byte_streams", "byte streams with a handler", func(s *session.Stats) float64 { return float64(s.Streams) })
	s("byte_streams_opened_total", "byte streams begun", func(s *session.Stats) float64 { return float64(s.StreamsTotal) })
	s("one_way_messages_total", "MESSAGE frames handled in Go", func(s *session.Stats) float64 { return float64(s.OneWay) })
	s("message_memory_bytes", "messages waiting or being put together", func(s *session.Stats) float64 { return float64(s.MessageBytes) })
	s("log_lines_held_back_total", "log lines about peers not written because of the rate limit", func(s *session.Stats) float64 { return float64(s.LogsHeld) })
	l := func(name, help string, get func(*plain.Stats) float64) {
		c.service = append(c.service, serviceMetric{describe("tls_"+name, help, "listener"), get})
	}
	l("connections", "open connections of a listener with TLS", func(s *plain.Stats) float64 { return float64(s.Open) })
	l("connections_accepted_total", "connections that a listener with TLS took", func(s *plain.Stats) float64 { return float64(s.Accepted) })
	l("connections_refused_total", "connections that a listener with TLS refused: beyond its limit, or not let in by listener.authz", func(s *plain.Stats) float64 { return float64(s.Refused) })
	l("connections_failed_total", "connections with TLS that ended otherwise than in good order", func(s *plain.Stats) float64 { return float64(s.Failed) })
	l("handshakes_failed_total", "TLS handshakes that failed or took too long", func(s *plain.Stats) float64 { return float64(s.Handshakes) })
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.counters {
		ch <- m.desc
	}
	for _, m := range c.queue {
		ch <- m.desc
	}
	for _, m := range c.port {
		ch <- m.desc
	}
	for _, m := range c.session {
		ch <- m.desc
	}
	for _, m := range c.service {
		ch <- m.desc
	}
	for _, d := range [...]*prometheus.Desc{c.drops, c.status, c.refused, c.up, c.backend, c.xdpDrops, c.xdpMode, c.build, c.cert} {
		ch <- d
	}
	for _, d := range c.gateway.all {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	send := func(m metric, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(m.desc, m.typ, v*m.scale, labels...)
	}
	for i := range c.src.Plane.Cores() {
		core := strconv.Itoa(i)
		v := c.src.Plane.Counters(i)
		for n, m := range c.counters {
			send(m, float64(v.Counter[n]), core)
		}
		for n := range v.Drop {
			meta := dataplane.Drop(n).Meta()
			ch <- prometheus.MustNewConstMetric(c.drops, prometheus.CounterValue, float64(v.Drop[n]), core, meta.Layer, meta.Reason)
		}
	}
	for _, p := range c.src.Ports() {
		c.ports(ch, send, &p)
	}
	if c.src.Listeners != nil {
		for _, l := range c.src.Listeners() {
			ch <- prometheus.MustNewConstMetric(c.backend, prometheus.GaugeValue, 1, "", l.Name, l.Requested, ladder.Actual(l.Ladder), ladder.Why(l.Ladder))
			for _, m := range c.service {
				if l.Service != nil {
					send(m.metric, m.get(l.Service), l.Name)
				}
			}
			if l.HTTP != nil {
				c.gateway.collectListener(send, l.Name, l.HTTP)
			}
		}
	}
	if c.src.Gateway != nil {
		if g := c.src.Gateway(); g != nil {
			c.gateway.collect(ch, send, g)
		}
	}
	st := c.src.Sessions()
	for _, m := range c.session {
		send(m.metric, m.get(&st))
	}
	for k, v := range st.Responses {
		ch <- prometheus.MustNewConstMetric(c.status, prometheus.CounterValue, float64(v), k)
	}
	for k, v := range st.Refused {
		ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(v), k)
	}
	for _, x := range c.src.Certs() {
		ch <- prometheus.MustNewConstMetric(c.cert, prometheus.GaugeValue, float64(x.NotAfter.Unix()), x.Files.Cert)
	}
	ch <- prometheus.MustNewConstMetric(c.build, prometheus.GaugeValue, 1, c.src.Version, c.src.Commit)
}

func (c *collector) ports(ch chan<- prometheus.Metric, send func(metric, float64, ...string), p *ports.Status) {
	name, up := p.Config.Label(), 0.0
	if p.Up {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up, name)
	if p.Shared { // the rest is the device's, told with its first interface
		return
	}
	actual, reason := ladder.None, p.Reason
	if p.Attached {
		actual, reason = ladder.Actual(p.Ladder), ladder.Why(p.Ladder)
	}
	ch <- prometheus.MustNewConstMetric(c.backend, prometheus.GaugeValue, 1, name, "", p.Config.Backend, actual, reason)
	for _, m := range c.port {
		send(m.metric, float64(m.get(p)), name)
	}
	for _, r := range p.Program.ByReason() {
		ch <- prometheus.MustNewConstMetric(c.xdpDrops, prometheus.CounterValue, float64(r.Packets), name, r.Reason)
	}
	if p.Mode != xdp.ModeAuto {
		ch <- prometheus.MustNewConstMetric(c.xdpMode, prometheus.GaugeValue, 1, name, p.Mode.String(), p.Fallback)
	}
	if !p.Added {
		return
	}
	for _, q := range c.src.Plane.QueueStats(p.ID) {
		for _, m := range c.queue {
			send(m.metric, float64(m.get(&q)), name, strconv.Itoa(q.Queue), strconv.Itoa(q.Core))
		}
	}
}

// maxScrapes bounds scrapes at a time.
const maxScrapes = 4

// Handler serves the metrics, those of the Go runtime included.
func Handler(src Source) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(New(src), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}
