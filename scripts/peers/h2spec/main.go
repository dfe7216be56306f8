// Command h2spec is the conformance suite of that name for HTTP/2 servers, for the tests
// of ctrl/gateway/server: h2spec [-t] [-S] -o seconds -j report.xml -p port
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	c := config.Config{Path: "/", MaxHeaderLen: 4000, Insecure: true}
	flag.StringVar(&c.Host, "h", "127.0.0.1", "host")
	flag.IntVar(&c.Port, "p", 0, "port")
	flag.BoolVar(&c.TLS, "t", false, "use TLS")
	flag.BoolVar(&c.Strict, "S", false, "the strict cases too")
	flag.StringVar(&c.JUnitReport, "j", "", "file for a report as JUnit writes it")
	seconds := flag.Int("o", 2, "seconds to wait for an answer")
	flag.Parse()
	c.Timeout = time.Duration(*seconds) * time.Second
	c.Sections = flag.Args()
	if _, err := h2spec.Run(&c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
