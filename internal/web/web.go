// Package web serves the page that shows what the daemon has, and the reading half of the
// operator's API, which the page asks. Nothing can be changed by it.
//
// Whoever reaches a loopback port may be any user of the host, and any page that a browser on
// it has open. So the Host header must name this machine (a page elsewhere whose name is made to
// mean 127.0.0.1 says its own), requests that another site causes are refused, and the page loads
// nothing from anywhere else. With a token only those who have it see anything.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"
)

//go:embed assets
var assets embed.FS

const (
	// writeFor is how long a client may take to read an answer.
	writeFor = 30 * time.Second
	// maxStreams bounds how many clients are told of events as they come.
	maxStreams = 16
)

// policy lets the page load its own files, and nothing else at all.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Config is what a page is made with.
type Config struct {
	// API is the operator's API. Only its GET routes are asked.
	API http.Handler
	// Token is what a client must have; "" lets all in who can connect.
	Token string
	Log   *slog.Logger
}

type page struct {
	Config
	files   map[string]file
	answers answers
	streams chan struct{} // has an element for each client that follows events
}

// file is a part of the page.
type file struct {
	body []byte
	kind string
	etag string
}

// New makes the page. It starts nothing.
func New(c Config) (http.Handler, error) {
	p := &page{Config: c, files: map[string]file{}, streams: make(chan struct{}, maxStreams)}
	p.answers = answers{api: c.API, byPath: map[string]*answer{"/v1/map": {}, "/v1/traffic": {}, "/v1/pools": {}}}
	err := fs.WalkDir(assets, "assets", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := assets.ReadFile(name)
		sum := sha256.Sum256(body)
		p.files["/"+strings.TrimPrefix(name, "assets/")] = file{body, mime.TypeByExtension(path.Ext(name)), `"` + hex.EncodeToString(sum[:12]) + `"`}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	p.files["/"] = p.files["/index.html"]
	return p, nil
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for _, h := range [][2]string{
		{"Content-Security-Policy", policy}, {"X-Content-Type-Options", "nosniff"}, {"X-Frame-Options", "DENY"},
		{"Referrer-Policy", "no-referrer"}, {"Cross-Origin-Opener-Policy", "same-origin"}, {"Cross-Origin-Resource-Policy", "same-origin"},
		{"Cache-Control", "no-store"},
	} {
		w.Header().Set(h[0], h[1])
	}
	// Not all writers have one; those of net/http do.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeFor))
	switch login := r.URL.Path == "/login"; {
	case p.Token == "" && !thisMachine(r.Host):
		http.Error(w, "the name in the address is not this machine's; try: localhost, 127.0.0.1, or a token (lanyard daemon --help)", http.StatusMisdirectedRequest)
	case crossSite(r):
		http.Error(w, "another site may not ask this", http.StatusForbidden)
	case r.Method == http.MethodPost && login && p.Token != "":
		p.login(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "nothing can be changed here; the command line can", http.StatusMethodNotAllowed)
	case login && p.Token != "":
		p.loginForm(w, http.StatusOK)
	case !p.mayRead(r):
		p.refuse(w, r)
	case strings.HasPrefix(r.URL.Path, "/v1/") || r.URL.Path == "/metrics":
		p.serveAPI(w, r)
	default:
		p.serveFile(w, r, r.URL.Path)
	}
}

// thisMachine reports whether the host of an address is this machine, as it is called on itself.
func thisMachine(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback()
}

// crossSite reports whether a page of somebody else's caused the request, unless it is a link
// that was followed. Browsers say so themselves.
func crossSite(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	follows := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	return (site == "cross-site" || site == "same-site") && !follows
}

// serveAPI asks the API. What all clients ask for again and again is asked for once.
func (p *page) serveAPI(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/events" {
		select {
		case p.streams <- struct{}{}:
			defer func() { <-p.streams }()
		default:
			w.Header().Set("Retry-After", "5")
			http.Error(w, fmt.Sprintf("%d clients follow events already", maxStreams), http.StatusServiceUnavailable)
			return
		}
	}
	if !p.answers.serve(w, r) {
		p.API.ServeHTTP(w, r)
	}
}

func (p *page) serveFile(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := p.files[name]
	if !ok {
		http.Error(w, "there is no such page", http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Type", f.kind)
	w.Header().Set("ETag", f.etag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.body))
}
