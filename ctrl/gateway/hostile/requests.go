package hostile

import (
	"maps"
	"strings"
)

const (
	hostLine = "Host: a.test\r\n"
	post     = "POST /a HTTP/1.1\r\n" + hostLine
	chunked  = post + "Transfer-Encoding: chunked\r\n\r\n"
)

// Requests are requests of HTTP/1.1 that parsers read in more than one way, by name. None
// may be served as a whole, nor anything that follows one on its connection. Those whose
// head is right and whose body is not have the target /a.
func Requests() map[string]string {
	all := framing()
	maps.Copy(all, targets())
	maps.Copy(all, lines())
	for name, body := range bodies() {
		all["chunk "+name] = chunked + body
	}
	return all
}

// framing is what says otherwise than plainly how long a body is.
func framing() map[string]string {
	return map[string]string{
		"cl.te":                 post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
		"te.cl":                 post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST / HTTP/1.1\r\n\r\n0\r\n\r\n",
		"te twice":              post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"te chunked twice":      post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te list":               post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"te identity, chunked":  post + "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
		"te space before colon": post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"te tab before colon":   post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
		"te tab":                post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
		"te trailing tab":       post + "Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
		"te x":                  post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"te quoted":             post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
		"te vertical tab":       post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
		"te nul":                post + "Transfer-Encoding: chunked\x00\r\n\r\n0\r\n\r\n",
		"te on second line":     post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
		"te after folded":       post + "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te hidden by lf":       post + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te hidden by cr":       post + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te underscore":         post + "Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te empty":              post + "Transfer-Encoding:\r\n\r\n0\r\n\r\n",
		"te 1.0":                "POST /a HTTP/1.0\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"te leading space name": "POST /a HTTP/1.1\r\n Transfer-Encoding: chunked\r\n" + hostLine + "\r\n0\r\n\r\n",
		"te chunked;q":          post + "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
		"te bytes above ascii":  post + "Transfer-Encoding: \xffchunked\r\n\r\n0\r\n\r\n",
		"te comma":              post + "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
		"cl twice":              post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"cl twice the same":     post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
		"cl list":               post + "Content-Length: 3, 3\r\n\r\nabc",
		"cl plus":               post + "Content-Length: +3\r\n\r\nabc",
		"cl minus":              post + "Content-Length: -3\r\n\r\nabc",
		"cl hex":                post + "Content-Length: 0x3\r\n\r\nabc",
		"cl point":              post + "Content-Length: 3.0\r\n\r\nabc",
		"cl exponent":           post + "Content-Length: 3e0\r\n\r\nabc",
		"cl space inside":       post + "Content-Length: 1 3\r\n\r\nabc",
		"cl empty":              post + "Content-Length: \r\n\r\n",
		"cl too large":          post + "Content-Length: 18446744073709551619\r\n\r\nabc",
		"cl tab":                post + "Content-Length:\t3\r\n\r\nabc",
		"cl underscore":         post + "Content_Length: 3\r\n\r\nabc",
		"cl space before colon": post + "Content-Length : 3\r\n\r\nabc",
		"cl arabic digits":      post + "Content-Length: \xd9\xa3\r\n\r\nabc",
	}
}

// targets is what says otherwise than plainly what is asked for, and of whom.
func targets() map[string]string {
	return map[string]string{
		"no host":                 "GET /a HTTP/1.1\r\n\r\n",
		"host twice":              "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"host twice the same":     "GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
		"host empty":              "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
		"host list":               "GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n",
		"host user":               "GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n",
		"host path":               "GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
		"host space":              "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n",
		"host port":               "GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n",
		"host port empty":         "GET /a HTTP/1.1\r\nHost: a:\r\n\r\n",
		"host space before colon": "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
		"host folded":             "GET /a HTTP/1.1\r\nHost: a\r\n\tb\r\n\r\n",
		"host bracket":            "GET /a HTTP/1.1\r\nHost: [::1\r\n\r\n",
		"absolute other host":     "GET http://b.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute user":           "GET http://u@a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute other scheme":   "GET ftp://a.test/a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"absolute no host":        "GET http:///a HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"no leading slash":        "GET a HTTP/1.1\r\n" + hostLine + "\r\n",
		"star with get":           "GET * HTTP/1.1\r\n" + hostLine + "\r\n",
		"target nul":              "GET /\x00 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target fragment":         "GET /a#b HTTP/1.1\r\n" + hostLine + "\r\n",
		"target space":            "GET /a b HTTP/1.1\r\n" + hostLine + "\r\n",
		"target tab":              "GET /a\tb HTTP/1.1\r\n" + hostLine + "\r\n",
		"target above ascii":      "GET /\xc3\xa9 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target percent":          "GET /%zz HTTP/1.1\r\n" + hostLine + "\r\n",
		"target percent cut off":  "GET /%2 HTTP/1.1\r\n" + hostLine + "\r\n",
		"target delete":           "GET /\x7f HTTP/1.1\r\n" + hostLine + "\r\n",
		"connect without port":    "CONNECT a.test HTTP/1.1\r\nHost: a.test\r\n\r\n",
		"connect path":            "CONNECT /a HTTP/1.1\r\nHost: a.test\r\n\r\n",
	}
}

// lines is what is no head, though some take it for one.
func lines() map[string]string {
	return map[string]string{
		"two spaces":               "GET  /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"space before version":     "GET /a  HTTP/1.1\r\n" + hostLine + "\r\n",
		"space after version":      "GET /a HTTP/1.1 \r\n" + hostLine + "\r\n",
		"tab in request line":      "GET\t/a\tHTTP/1.1\r\n" + hostLine + "\r\n",
		"space first":              " GET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"version 0.9":              "GET /a\r\n",
		"version 1.2":              "GET /a HTTP/1.2\r\n" + hostLine + "\r\n",
		"version 2.0":              "GET /a HTTP/2.0\r\n" + hostLine + "\r\n",
		"version 1.10":             "GET /a HTTP/1.10\r\n" + hostLine + "\r\n",
		"version small":            "GET /a http/1.1\r\n" + hostLine + "\r\n",
		"version other":            "GET /a XTTP/1.1\r\n" + hostLine + "\r\n",
		"method no token":          "G(T /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"method long":              strings.Repeat("G", 200) + " /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"method colon":             "GET: /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"lf alone in request line": "GET /a HTTP/1.1\n" + hostLine + "\r\n",
		"lf alone at the end":      "GET /a HTTP/1.1\r\n" + hostLine + "\n",
		"lf alone everywhere":      "GET /a HTTP/1.1\nHost: a.test\n\n",
		"cr alone":                 "GET /a HTTP/1.1\r" + hostLine + "\r\n",
		"cr cr lf":                 "GET /a HTTP/1.1\r\r\n" + hostLine + "\r\n",
		"two empty lines":          "\r\n\r\nGET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"empty line of lf":         "\nGET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"name empty":               "GET /a HTTP/1.1\r\n" + hostLine + ": x\r\n\r\n",
		"name with space":          "GET /a HTTP/1.1\r\n" + hostLine + "A B: x\r\n\r\n",
		"name with nul":            "GET /a HTTP/1.1\r\n" + hostLine + "A\x00: x\r\n\r\n",
		"no colon":                 "GET /a HTTP/1.1\r\n" + hostLine + "AB\r\n\r\n",
		"folded":                   "GET /a HTTP/1.1\r\n" + hostLine + "A: b\r\n c\r\n\r\n",
		"folded first":             "GET /a HTTP/1.1\r\n A: b\r\n" + hostLine + "\r\n",
		"value nul":                "GET /a HTTP/1.1\r\n" + hostLine + "A: b\x00c\r\n\r\n",
		"value delete":             "GET /a HTTP/1.1\r\n" + hostLine + "A: b\x7fc\r\n\r\n",
		"preface":                  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxx",
		"tls":                      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
	}
}

// bodies is chunked bodies that are none.
func bodies() map[string]string {
	return map[string]string{
		"size 0x":             "0x5\r\nabcde\r\n0\r\n\r\n",
		"size plus":           "+5\r\nabcde\r\n0\r\n\r\n",
		"size minus":          "-5\r\nabcde\r\n0\r\n\r\n",
		"size empty":          "\r\nabcde\r\n0\r\n\r\n",
		"size space":          "5 \r\nabcde\r\n0\r\n\r\n",
		"size space first":    " 5\r\nabcde\r\n0\r\n\r\n",
		"size huge":           "fffffffffffffffff\r\nabcde\r\n0\r\n\r\n",
		"size overflow":       "10000000000000005\r\nabcde\r\n0\r\n\r\n",
		"size many zeros":     strings.Repeat("0", 40) + "5\r\nabcde\r\n0\r\n\r\n",
		"size lf":             "5\nabcde\r\n0\r\n\r\n",
		"size cr":             "5\rabcde\r\n0\r\n\r\n",
		"size cr x":           "5\rX\nabcde\r\n0\r\n\r\n",
		"size g":              "5g\r\nabcde\r\n0\r\n\r\n",
		"data longer":         "5\r\nabcdef\r\n0\r\n\r\n",
		"data shorter":        "5\r\nabcd\r\n0\r\n\r\n",
		"data without crlf":   "5\r\nabcde0\r\n\r\n",
		"data lf":             "5\r\nabcde\n0\r\n\r\n",
		"extension lf":        "5;a\nabcde\r\n0\r\n\r\n",
		"extension cr":        "5;a\rb\r\nabcde\r\n0\r\n\r\n",
		"extension nul":       "5;a\x00\r\nabcde\r\n0\r\n\r\n",
		"extension long":      "5;" + strings.Repeat("a", 4000) + "\r\nabcde\r\n0\r\n\r\n",
		"extensions many":     strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 200) + "0\r\n\r\n",
		"last lf":             "5\r\nabcde\r\n0\n\r\n",
		"end lf":              "5\r\nabcde\r\n0\r\n\n",
		"trailer cl":          "5\r\nabcde\r\n0\r\nContent-Length: 3\r\n\r\n",
		"trailer te":          "5\r\nabcde\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
		"trailer te other":    "5\r\nabcde\r\n0\r\nTransfer_Encoding: chunked\r\n\r\n",
		"trailer host":        "5\r\nabcde\r\n0\r\nHost: b\r\n\r\n",
		"trailer space":       "5\r\nabcde\r\n0\r\nA : b\r\n\r\n",
		"trailer folded":      "5\r\nabcde\r\n0\r\nA: b\r\n c\r\n\r\n",
		"trailer no colon":    "5\r\nabcde\r\n0\r\nAb\r\n\r\n",
		"trailer lf":          "5\r\nabcde\r\n0\r\nA: b\n\r\n",
		"trailers long":       "5\r\nabcde\r\n0\r\nA: " + strings.Repeat("b", 2000) + "\r\n\r\n",
		"trailers many":       "5\r\nabcde\r\n0\r\n" + strings.Repeat("A: b\r\n", 2000) + "\r\n",
		"trailer nul":         "5\r\nabcde\r\n0\r\nA: \x00\r\n\r\n",
		"no size after chunk": "5\r\nabcde\r\nGET /x HTTP/1.1\r\n\r\n",
	}
}

// Right are requests of HTTP/1.1 that are seldom seen and have one reading. Each keeps its
// connection.
func Right() map[string]string {
	return map[string]string{
		"get with body":       "GET /a HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello",
		"get chunked":         "GET /a HTTP/1.1\r\n" + hostLine + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"delete with body":    "DELETE /a HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello",
		"post without body":   post + "\r\n",
		"length 0":            post + "Content-Length: 0\r\n\r\n",
		"length with zeros":   post + "Content-Length: 0005\r\n\r\nhello",
		"body is a request":   post + "Content-Length: 44\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: smuggled\r\n\r\n\x00\x00",
		"chunk is a request":  chunked + "2c\r\nGET /smuggled HTTP/1.1\r\nHost: smuggled\r\n\r\n\x00\x00\r\n0\r\n\r\n",
		"extensions":          chunked + "5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n",
		"size with zeros":     chunked + "000005\r\nhello\r\n0000\r\n\r\n",
		"capital size":        chunked + "A\r\n0123456789\r\n0\r\n\r\n",
		"trailers":            chunked + "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Other:2\r\n\r\n",
		"announced trailers":  post + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
		"hop by hop":          post + "Connection: X-Hop, Content-Length\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello",
		"hop by hop coding":   post + "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"hop by hop host":     "GET /a HTTP/1.1\r\n" + hostLine + "Connection: Host, X-Request-Id, X-Forwarded-For\r\n\r\n",
		"te":                  "GET /a HTTP/1.1\r\n" + hostLine + "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n\r\n",
		"absolute":            "GET http://a.test/a?b HTTP/1.1\r\n" + hostLine + "\r\n",
		"capitals":            "POST /a HTTP/1.1\r\nHOST: a.test\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"no space":            "POST /a HTTP/1.1\r\nHost:a.test\r\nContent-Length:5\r\n\r\nhello",
		"empty line before":   "\r\nGET /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"h2c offered":         "GET /a HTTP/1.1\r\n" + hostLine + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
		"h2c offered, body":   post + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 5\r\n\r\nhello",
		"upgrade with a body": post + "Connection: Upgrade\r\nUpgrade: other\r\nContent-Length: 5\r\n\r\nhello",
		"upgrade":             "GET /a HTTP/1.1\r\n" + hostLine + "Connection: Upgrade\r\nUpgrade: other\r\n\r\n",
		"unknown method":      "SMUGGLE /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"small method":        "get /a HTTP/1.1\r\n" + hostLine + "\r\n",
		"opaque value":        "GET /a HTTP/1.1\r\n" + hostLine + "X: \xff\xfe\t y\r\n\r\n",
		"empty value":         "GET /a HTTP/1.1\r\n" + hostLine + "X:\r\n\r\n",
		"head with body":      "HEAD /a HTTP/1.1\r\n" + hostLine + "Content-Length: 5\r\n\r\nhello",
		"escapes":             "GET /a%2e%20b?c=%0d%0aX:%20y HTTP/1.1\r\n" + hostLine + "\r\n",
		"dots":                "GET /a/../b/./c//d HTTP/1.1\r\n" + hostLine + "\r\n",
		"forged":              "GET /a HTTP/1.1\r\n" + hostLine + "X-Request-Id: forged\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\n\r\n",
	}
}
