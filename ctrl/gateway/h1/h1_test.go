package h1

import "testing"

func TestKeepAlive(t *testing.T) {
	c := client(t, server(t, answers("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\n")), nil)
	for i := range 10 {
		resp, body, err := do(t, c, get("/"))
		if err != nil || resp.StatusCode != 200 || body != []string{"hi", "ho"}[i%2] {
			t.Fatal(i, resp, body, err)
		}
	}
	if s := c.Stats(); s.Opened() != 1 || s.Acquired != 10 || s.Borrowed != 0 {
		t.Errorf("%+v", s)
	}
}
