package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

const token = "correct-horse-battery"

// api answers with the method and the path, and counts how often it is asked for the map.
func api(asked *atomic.Int32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/map" {
			fmt.Fprintf(w, "map %d %s", asked.Add(1), strings.Repeat("x", small))
			return
		}
		fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
	})
}

func newPage(t *testing.T, token string) (h http.Handler, asked *atomic.Int32) {
	t.Helper()
	asked = new(atomic.Int32)
	h, err := New(Config{API: api(asked), Token: token, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return h, asked
}

// ask sends a request with headers, which are names and values in turn.
func ask(h http.Handler, method, target, body string, headers ...string) *http.Response {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func read(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhoMayAsk(t *testing.T) {
	open, _ := newPage(t, "")
	locked, _ := newPage(t, token)
	for _, x := range []struct {
		h              http.Handler
		method, target string
		headers        []string
		want           int
	}{
		// Without a token the name must be this machine's, whatever port it was reached by.
		{open, "GET", "http://127.0.0.1:8780/", nil, 200},
		{open, "GET", "http://127.9.9.9/", nil, 200},
		{open, "GET", "http://localhost:9999/v1/version", nil, 200},
		{open, "GET", "http://LOCALHOST/", nil, 200},
		{open, "GET", "http://[::1]:8780/", nil, 200},
		{open, "GET", "http://attacker.example/", nil, 421},
		{open, "GET", "http://attacker.example:8780/v1/map", nil, 421},
		{open, "GET", "http://localhost.attacker.example/v1/map", nil, 421},
		{open, "GET", "http://192.168.0.5:8780/", nil, 421},
		// Nothing can be changed.
		{open, "HEAD", "http://localhost/", nil, 200},
		{open, "POST", "http://localhost/v1/repair", nil, 405},
		{open, "DELETE", "http://localhost/v1/networks/aa", nil, 405},
		{open, "PUT", "http://localhost/v1/policy", nil, 405},
		{open, "OPTIONS", "http://localhost/v1/map", nil, 405},
		{open, "POST", "http://localhost/login", nil, 405},
		// Other sites' pages.
		{open, "GET", "http://localhost/v1/map", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors"}, 403},
		{open, "GET", "http://localhost/v1/map", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "cors"}, 403},
		{open, "GET", "http://localhost/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		{open, "GET", "http://localhost/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{open, "GET", "http://localhost/v1/map", []string{"Sec-Fetch-Site", "same-origin"}, 200},
		// What there is.
		{open, "GET", "http://localhost/metrics", nil, 200},
		{open, "GET", "http://localhost/app.js", nil, 200},
		{open, "GET", "http://localhost/../web.go", nil, 404},
		{open, "GET", "http://localhost/assets/app.js", nil, 404},
		// With a token it is the token that counts, and no name.
		{locked, "GET", "http://lanyard.example/", nil, 303},
		{locked, "GET", "http://lanyard.example/login", nil, 200},
		{locked, "GET", "http://lanyard.example/style.css", nil, 200},
		{locked, "GET", "http://lanyard.example/app.js", nil, 401},
		{locked, "GET", "http://localhost/v1/map", nil, 401},
		{locked, "GET", "http://localhost/metrics", nil, 401},
		{locked, "GET", "http://localhost/v1/map", []string{"Authorization", "Bearer " + token}, 200},
		{locked, "GET", "http://localhost/v1/map", []string{"Authorization", "Bearer " + token + "x"}, 401},
		{locked, "GET", "http://localhost/v1/map", []string{"Authorization", "Bearer "}, 401},
		{locked, "GET", "http://localhost/v1/map", []string{"Authorization", token}, 401},
		{locked, "POST", "http://localhost/v1/repair", []string{"Authorization", "Bearer " + token}, 405},
		{locked, "GET", "http://localhost/v1/map", []string{"Cookie", "lanyard=9999999999.00"}, 401},
		{locked, "GET", "http://localhost/v1/map", []string{"Cookie", "lanyard=" + token}, 401},
	} {
		r := ask(x.h, x.method, x.target, "", x.headers...)
		if r.StatusCode != x.want {
			t.Errorf("%s %s %q: %d %s, want %d", x.method, x.target, x.headers, r.StatusCode, read(t, r), x.want)
		}
		for header, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-",
		} {
			if got := r.Header.Get(header); !strings.HasPrefix(got, want) {
				t.Errorf("%s %s: %s is %q, want %s", x.method, x.target, header, got, want)
			}
		}
	}
}

func TestLogin(t *testing.T) {
	h, _ := newPage(t, token)
	form := func(given string, headers ...string) *http.Response {
		return ask(h, "POST", "http://lanyard.example/login", url.Values{"token": {given}}.Encode(),
			append(headers, "Content-Type", "application/x-www-form-urlencoded")...)
	}
	for _, bad := range []string{"", "wrong", token + "x", strings.Repeat("x", 10<<10)} {
		if r := form(bad); r.StatusCode != 403 || len(r.Cookies()) > 0 || strings.Contains(read(t, r), " hidden") {
			t.Errorf("%.20s: %d", bad, r.StatusCode)
		}
	}
	if r := form(token, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"); r.StatusCode != 403 {
		t.Errorf("another site's form: %d", r.StatusCode)
	}
	r := form(token)
	if r.StatusCode != 303 || len(r.Cookies()) != 1 {
		t.Fatalf("login: %d", r.StatusCode)
	}
	c := r.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, token) {
		t.Errorf("cookie %s", r.Header.Get("Set-Cookie"))
	}
	read := func(h http.Handler, value string) int {
		return ask(h, "GET", "http://lanyard.example/v1/version", "", "Cookie", cookieName+"="+value).StatusCode
	}
	again, _ := newPage(t, token) // a daemon that was started anew
	other, _ := newPage(t, "another-horse-battery")
	ends, sum, _ := strings.Cut(c.Value, ".")
	for _, x := range []struct {
		h     http.Handler
		value string
		want  int
	}{{h, c.Value, 200}, {again, c.Value, 200}, {other, c.Value, 401}, {h, "9" + ends + "." + sum, 401}, {h, ends + ".", 401}} {
		if got := read(x.h, x.value); got != x.want {
			t.Errorf("cookie %s: %d, want %d", x.value, got, x.want)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		h, _ := newPage(t, token)
		value := h.(*page).cookie(time.Now().Add(time.Hour).Unix())
		if got := read(h, value); got != 200 {
			t.Errorf("a cookie with an hour left: %d", got)
		}
		time.Sleep(time.Hour + time.Second)
		if got := read(h, value); got != 401 {
			t.Errorf("a cookie that has ended: %d", got)
		}
	})
}

// The API is asked once for all clients, and none is sent what it has.
func TestAnswersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, asked := newPage(t, "")
		get := func(headers ...string) *http.Response {
			return ask(h, "GET", "http://localhost/v1/map", "", headers...)
		}
		first := get()
		for range 5 {
			if r := get(); read(t, r) != read(t, get()) || r.Header.Get("ETag") != first.Header.Get("ETag") {
				t.Error("two clients have two answers")
			}
		}
		packed := get("Accept-Encoding", "gzip")
		z, err := gzip.NewReader(packed.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || !bytes.HasPrefix(b, []byte("map 1 ")) {
			t.Errorf("packed: %.10s, %v", b, err)
		}
		if r := get("If-None-Match", first.Header.Get("ETag")); r.StatusCode != 304 || read(t, r) != "" {
			t.Errorf("who has it already: %d", r.StatusCode)
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("the API was asked %d times", n)
		}
		time.Sleep(fresh + time.Millisecond)
		if r := get("If-None-Match", first.Header.Get("ETag")); r.StatusCode != 200 || !strings.HasPrefix(read(t, r), "map 2 ") {
			t.Errorf("a second later: %d", r.StatusCode)
		}
	})
}

// Who looks costs the daemon no more than a tenth of its time.
func TestSlowAnswersAreAskedForSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		h, err := New(Config{Log: quiet, API: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			asked++
			time.Sleep(time.Second)
		})})
		if err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(100 * time.Millisecond) {
			ask(h, "GET", "http://localhost/v1/traffic", "")
		}
		if asked > 6 {
			t.Errorf("asked %d times in a minute, a second each", asked)
		}
	})
}

// Those who follow events are bounded, and a place is free again when one goes.
func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New(Config{Log: quiet, API: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })})
		if err != nil {
			t.Fatal(err)
		}
		ctx, hangUp := context.WithCancel(t.Context())
		follow := func() int {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/v1/events?follow=true", nil).WithContext(ctx))
			return w.Code
		}
		for range maxStreams {
			go follow()
		}
		synctest.Wait()
		if got := follow(); got != 503 {
			t.Errorf("one too many: %d", got)
		}
		hangUp()
		synctest.Wait()
		if got := follow(); got != 200 {
			t.Errorf("after the others have gone: %d", got)
		}
	})
}

// The page is whole, and names nothing that is elsewhere.
func TestAssets(t *testing.T) {
	h, _ := newPage(t, "")
	index := read(t, ask(h, "GET", "http://localhost/", ""))
	for _, kind := range []struct{ path, want string }{{"/", "text/html"}, {"/app.js", "text/javascript"}, {"/style.css", "text/css"}, {"/icon.svg", "image/svg+xml"}} {
		if got := ask(h, "GET", "http://localhost"+kind.path, "").Header.Get("Content-Type"); !strings.HasPrefix(got, kind.want) {
			t.Errorf("%s is %s, want %s", kind.path, got, kind.want)
		}
	}
	if strings.Contains(index, "<style") || strings.Contains(index, "style=") || strings.Contains(index, " on") && strings.Contains(index, "onclick") {
		t.Error("the policy forbids what is in the page")
	}
	for name, f := range h.(*page).files {
		text := strings.ReplaceAll(string(f.body), "http://www.w3.org/2000/svg", "")
		if strings.Contains(text, "http:") || strings.Contains(text, "https:") || strings.Contains(text, "url(") {
			t.Errorf("%s names something elsewhere", name)
		}
	}
	first := ask(h, "GET", "http://localhost/app.js", "")
	if r := ask(h, "GET", "http://localhost/app.js", "", "If-None-Match", first.Header.Get("ETag")); r.StatusCode != 304 {
		t.Errorf("who has it already: %d", r.StatusCode)
	}
}

func TestPlaces(t *testing.T) {
	for _, x := range []struct {
		text  string
		token bool
		want  string
	}{
		{"127.0.0.1:8780", false, ""}, {"localhost:8780", false, ""}, {"[::1]:8780", false, ""}, {"127.0.0.2:1", false, ""},
		{"unix:///run/lanyard/web.sock", false, ""}, {"0.0.0.0:8780", true, ""}, {":8780", true, ""}, {"192.168.0.5:8780", true, ""},
		{"0.0.0.0:8780", false, "others on the network could look"}, {":8780", false, "others on the network could look"},
		{"192.168.0.5:8780", false, "others on the network could look"}, {"[::]:8780", false, "others on the network could look"},
		{"8780", false, "want ADDRESS:PORT"}, {"127.0.0.1", false, "want ADDRESS:PORT"}, {"127.0.0.1:http", false, "want ADDRESS:PORT"},
		{"127.0.0.1:0", false, "want ADDRESS:PORT"}, {"127.0.0.1:99999", false, "want ADDRESS:PORT"}, {"lanyard.example:8780", true, "is not an address"},
		{"unix://run/web.sock", false, "must begin with /"}, {"", false, "want ADDRESS:PORT"},
	} {
		_, err := ParsePlace(x.text, x.token)
		if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%q, token %v: %v, want %s", x.text, x.token, err, x.want)
		}
	}
}

func TestTokenFile(t *testing.T) {
	dir := t.TempDir()
	for i, x := range []struct {
		text, want string
		mode       os.FileMode
	}{
		{token + "\n", "", 0o600}, {token, "", 0o400}, {token, "may be read by others (0640); try: chmod 600", 0o640}, {token, "may be read by others", 0o604},
		{"short", "has 5 characters, 16 are the least", 0o600}, {"", "has 0 characters", 0o600}, {token + " " + token, "more than one word", 0o600},
		{strings.Repeat("x", 600), "more than 512", 0o600},
	} {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(x.text), x.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, x.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ReadToken(path)
		if x.want == "" && (err != nil || got != token) || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%.30q: %q, %v, want %s", x.text, got, err, x.want)
		}
	}
	if _, err := ReadToken(dir); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := ReadToken(filepath.Join(dir, "none")); err == nil {
		t.Error("no file: no error")
	}
}

// Further clients than the bound wait, and do not hold up what is served already.
func TestConnectionsAreBounded(t *testing.T) {
	place, err := ParsePlace("unix://"+filepath.Join(t.TempDir(), "w.sock"), false)
	if err != nil {
		t.Fatal(err)
	}
	l, err := place.Listen()
	if err != nil {
		t.Fatal(err)
	}
	h, _ := newPage(t, "")
	server := &http.Server{Handler: h}
	defer server.Close()
	go func() { _ = server.Serve(l) }()
	var first net.Conn
	for i := range maxConns {
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}}
		if _, err := client.Get("http://localhost/icon.svg"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = c
		}
	}
	late, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	fmt.Fprint(late, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	if err := late.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := late.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes for one too many", n)
	}
	first.Close()
	if err := late.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := late.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("when another has gone: %v", err)
	}
}
