package h1

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// checkAgainstNetHTTP reads a head that we took with net/http, which must frame it the same way.
func checkAgainstNetHTTP(t *testing.T, block string, h head) {
	t.Helper()
	if h.status < 200 || h.status == 204 || h.status == 304 {
		return
	}
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(block)), &http.Request{Method: "GET"})
	if err != nil {
		t.Fatalf("%q: net/http: %v", block, err)
	}
	defer resp.Body.Close()
	chunked := len(resp.TransferEncoding) == 1 && resp.TransferEncoding[0] == "chunked"
	if resp.StatusCode != h.status || chunked != h.chunked || resp.ContentLength != h.length {
		t.Fatalf("%q: net/http: %d, %v, %d; ours %d, %v, %d", block, resp.StatusCode, chunked, resp.ContentLength, h.status, h.chunked, h.length)
	}
}
