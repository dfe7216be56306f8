package config

import "time"

// AccessLog is [access_log].
type AccessLog struct {
	File     string        `key:"file" default:"" doc:"JSON lines, one for each request; \"-\" standard output; \"\" none; USR1 opens it again"`
	SlowFile string        `key:"slow_file" default:"" doc:"requests slower than slow, here as well"`
	Slow     time.Duration `key:"slow" default:"1s" min:"1ms" max:"1h" doc:""`
	Sample   int           `key:"sample_percent" default:"100" min:"0" max:"100" doc:"of requests that went well; others are always written"`
	Buffer   int           `key:"buffer" default:"8192" min:"64" max:"1048576" doc:"lines waiting to be written; more are dropped and counted"`
}

// Tracing is [tracing].
type Tracing struct {
	Endpoint string        `key:"endpoint" default:"" doc:"OTLP over HTTP, such as \"http://127.0.0.1:4318\"; \"\" none"`
	Service  string        `key:"service" default:"np" doc:"service.name"`
	Sample   int           `key:"sample_percent" default:"100" min:"0" max:"100" doc:"of requests that bring no decision"`
	Trust    bool          `key:"trust" default:"true" doc:"go on with a client's trace; false: begin one of our own"`
	Queue    int           `key:"queue" default:"2048" min:"16" max:"1048576" doc:"spans waiting to be sent; more are dropped and counted"`
	Timeout  time.Duration `key:"timeout" default:"5s" min:"10ms" max:"1m" doc:"of one export"`
}
