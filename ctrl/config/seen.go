package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// AccessLog is [access_log].
type AccessLog struct {
	File      string        `key:"file" default:"" doc:"JSON lines, one for each request; \"-\" standard output; \"\" none; USR1 opens it again"`
	SlowFile  string        `key:"slow_file" default:"" doc:"slow requests, here as well"`
	Slow      time.Duration `key:"slow" default:"1s" max:"24h" doc:"requests that take as long are slow: marked, and always written; streams and upgrades by the time to their head; 0 none is"`
	Sample    []string      `key:"sample" default:"" doc:"percent written of a class of status, such as [\"2xx=10\", \"3xx=0.5\"]; the others are written whole"`
	Query     bool          `key:"query" default:"false" doc:"write queries, which may carry secrets"`
	UserAgent bool          `key:"user_agent" default:"true" doc:"write what clients call themselves"`
	Buffer    Size          `key:"buffer" default:"4MiB" min:"64KiB" max:"1GiB" doc:"memory for lines that wait to be written; more are dropped and counted"`
}

// Parts are the parts of the lines that Sample says, 0 to 1, by class of status.
func (a *AccessLog) Parts() (map[int]float64, error) {
	parts := map[int]float64{}
	for _, s := range a.Sample {
		class, text, ok := strings.Cut(s, "=")
		percent, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !(percent >= 0 && percent <= 100) || len(class) != 3 || class[1:] != "xx" || class[0] < '1' || class[0] > '5' {
			return nil, fmt.Errorf("access_log.sample: got %q, expected a class of status and percent, 0 to 100, such as \"2xx=10\"", s)
		}
		n := int(class[0] - '0')
		if _, twice := parts[n]; twice {
			return nil, fmt.Errorf("access_log.sample: %s is there twice, expected once", class)
		}
		parts[n] = percent / 100
	}
	return parts, nil
}

// Tracing is [tracing].
type Tracing struct {
	Endpoint    string        `key:"endpoint" default:"" doc:"a collector that takes OTLP over HTTP, such as \"http://127.0.0.1:4318\"; \"\" none: traces pass as they come"`
	HeadersFile string        `key:"headers_file" default:"" doc:"fields for the collector, one \"Name: value\" a line"`
	CAFile      string        `key:"ca_file" default:"" doc:"PEM: who issues the collector's certificate; none: the system's roots"`
	Service     string        `key:"service" default:"np" doc:"service.name"`
	Sample      int           `key:"sample_percent" default:"100" min:"0" max:"100" doc:"of the traces that begin here"`
	SampleBy    string        `key:"sample_by" default:"parent" oneof:"parent|ratio" doc:"which traces that began elsewhere are recorded: those that say so, or sample_percent of them too"`
	Trust       string        `key:"trust" default:"any" oneof:"any|trusted|none" doc:"whose traces go on here: anybody's, those of [listener.http] trusted, nobody's; others begin anew, with a link"`
	Queue       int           `key:"queue" default:"4096" min:"16" max:"1048576" doc:"spans that wait to be sent; more are dropped and counted"`
	Timeout     time.Duration `key:"timeout" default:"10s" min:"10ms" max:"5m" doc:"of one export with its repetitions"`
}

// seen checks [access_log] and [tracing].
func (l *loader) seen() {
	c := l.cfg
	a := &c.AccessLog
	if _, err := a.Parts(); err != nil {
		l.fail(c.Pos("access_log.sample"), "%v", err)
	}
	if a.SlowFile != "" && a.Slow == 0 {
		l.fail(c.Pos("access_log.slow_file"), "access_log.slow_file: no request is slow, expected slow with a time")
	}
	if a.SlowFile != "" && a.SlowFile == a.File {
		l.fail(c.Pos("access_log.slow_file"), "access_log.slow_file: %q is file as well, which marks slow requests, expected another or none", a.SlowFile)
	}
	t := &c.Tracing
	if t.CAFile != "" && !strings.HasPrefix(t.Endpoint, "https:") {
		l.fail(c.Pos("tracing.ca_file"), "tracing.ca_file: the endpoint is not https, expected it left out")
	}
	if t.Endpoint == "" && t.HeadersFile != "" {
		l.fail(c.Pos("tracing.headers_file"), "tracing.headers_file: there is no endpoint, expected one")
	}
}
