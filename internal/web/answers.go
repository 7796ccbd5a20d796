package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// fresh is how long an answer is used for all who ask. One that took long is used for
	// costs times as long as it took: however many look, the daemon has the rest of its time for Docker.
	fresh = time.Second
	costs = 10
	// askFor is how long the API may take for an answer.
	askFor = 20 * time.Second
	// small is what is not worth to be compressed, in bytes.
	small = 1 << 10
)

// answers are those of the API that many clients may ask for every other second. They cost
// the same for many clients as for one, and a client that has the newest already is sent nothing.
type answers struct {
	api    http.Handler
	byPath map[string]*answer
}

type answer struct {
	mu     sync.Mutex // guards the rest, and is held while the API is asked
	until  time.Time
	status int
	body   []byte
	packed []byte // with gzip; nil where it is small
	etag   string
}

// serve answers requests that it has answers for, and reports whether this is one.
func (a *answers) serve(w http.ResponseWriter, r *http.Request) bool {
	one := a.byPath[r.URL.Path]
	if one == nil || r.URL.RawQuery != "" {
		return false
	}
	status, body, packed, etag := one.get(a.api, r)
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Vary", "Accept-Encoding")
	if status == http.StatusOK {
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	if packed != nil && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = packed
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // who hung up does not want it
	}
	return true
}

// get is the answer, asked for anew when it is too old. The slices are not changed any more.
func (a *answer) get(api http.Handler, r *http.Request) (status int, body, packed []byte, etag string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	start := time.Now()
	if start.Before(a.until) {
		return a.status, a.body, a.packed, a.etag
	}
	// It is everybody's: whoever asked first may hang up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), askFor)
	defer cancel()
	ask := r.Clone(ctx)
	ask.Method = http.MethodGet
	w := recorder{header: http.Header{}, status: http.StatusOK}
	api.ServeHTTP(&w, ask)
	a.status, a.body, a.packed = w.status, w.body.Bytes(), nil
	sum := sha256.Sum256(a.body)
	a.etag = `"` + hex.EncodeToString(sum[:12]) + `"`
	if len(a.body) > small {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed) // which is a level that there is
		if _, err := z.Write(a.body); err == nil && z.Close() == nil {
			a.packed = b.Bytes()
		}
	}
	end := time.Now()
	a.until = end.Add(max(fresh, costs*end.Sub(start)))
	return a.status, a.body, a.packed, a.etag
}

// recorder takes an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(b []byte) (int, error) { return r.body.Write(b) }
