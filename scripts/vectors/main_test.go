package main

import "testing"

func TestFlatten(t *testing.T) {
	in := `{"algorithm":"X","testGroups":[{"keySize":256,"source":{"name":"y"},"tests":[
		{"tcId":1,"key":"00ff","flags":["Ktv"],"msg":"","result":"valid"},
		{"tcId":2,"comment":"two\nlines","ok":true}]}]}`
	want := "keySize = 256\nkey = 00ff\nmsg = \nresult = valid\ntcId = 1\n\nkeySize = 256\nok = true\ntcId = 2\n\n"
	got, err := flatten([]byte(in))
	if err != nil || string(got) != want {
		t.Errorf("flatten = %q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"", "[]", `{"testGroups":[]}`, `{"testGroups":[{"tests":3}]}`} {
		if _, err := flatten([]byte(bad)); err == nil {
			t.Errorf("flatten(%q) found nothing wrong", bad)
		}
	}
}
