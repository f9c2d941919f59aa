//go:build linux

package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestCacheDamagesZonesOnlyAndOnlyWhenTold(t *testing.T) {
	for _, c := range []struct {
		path    string
		status  int
		told    bool
		damaged bool
	}{
		{"/blobs/sha256/00", 200, true, true},
		{"/blobs/sha256/00", 206, true, true},
		{"/blobs/sha256/00", 200, false, false},
		{"/blobs/sha256/00", 404, true, false},
		{"/metadata/timestamp.json", 200, true, false},
	} {
		k := &cache{}
		k.damages.Store(c.told)
		r := &http.Response{StatusCode: c.status, Request: &http.Request{URL: &url.URL{Path: c.path}}, Body: io.NopCloser(strings.NewReader("12345"))}
		if err := k.damage(r); err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if len(body) != 5 || (string(body) != "12345") != c.damaged {
			t.Errorf("%s, %d, told %v: %q", c.path, c.status, c.told, body)
		}
	}
}
