package xconnect

import (
	"os"
	"strings"
)

const setting = "http2xconnect="

func init() {
	v := os.Getenv("GODEBUG")
	if strings.Contains(v, setting) {
		return
	}
	if v != "" {
		v += ","
	}
	_ = os.Setenv("GODEBUG", v+setting+"1") // fails for names and values that have a NUL in them alone
}
