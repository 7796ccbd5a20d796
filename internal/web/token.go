package web

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// minToken and maxToken bound a token, in characters.
	minToken, maxToken = 16, 512
	cookieName         = "lanyard"
	// cookieFor is how long nobody is asked for the token again.
	cookieFor = 7 * 24 * time.Hour
)

// ReadToken reads a token from a file that only its owner may read, who is root or the user
// that the daemon runs as.
func ReadToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("token: %s is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		return "", fmt.Errorf("token: %s may be read by others (%#o); try: chmod 600 %s", path, info.Mode().Perm(), path)
	case ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid():
		return "", fmt.Errorf("token: %s is another user's; try: chown root %s", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken+2))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case len(token) < minToken:
		return "", fmt.Errorf("token: %s has %d characters, %d are the least; try: openssl rand -hex 24 > %s", path, len(token), minToken, path)
	case len(token) > maxToken:
		return "", fmt.Errorf("token: %s has more than %d characters", path, maxToken)
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("token: " + path + " has more than one word of ASCII in it")
	}
	return token, nil
}

// mayRead reports whether a request is from somebody who has the token, if there is one.
func (p *page) mayRead(r *http.Request) bool {
	if p.Token == "" || r.URL.Path == "/style.css" || r.URL.Path == "/icon.svg" { // which the form has, too
		return true
	}
	if given, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return p.isToken(given)
	}
	c, err := r.Cookie(cookieName)
	if err != nil {
		return false
	}
	ends, _, _ := strings.Cut(c.Value, ".")
	at, err := strconv.ParseInt(ends, 10, 64)
	return err == nil && time.Now().Before(time.Unix(at, 0)) && hmac.Equal([]byte(c.Value), []byte(p.cookie(at)))
}

// cookie is the value of the cookie of somebody who had the token. It says when it ends, and
// follows from the token, so that it outlives the daemon and not the token.
func (p *page) cookie(ends int64) string {
	mac := hmac.New(sha256.New, []byte(p.Token))
	fmt.Fprintf(mac, "cookie %d", ends)
	return fmt.Sprintf("%d.%s", ends, hex.EncodeToString(mac.Sum(nil)))
}

func (p *page) isToken(given string) bool {
	is, want := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(p.Token))
	return subtle.ConstantTimeCompare(is[:], want[:]) == 1
}

// login takes the token from the form.
func (p *page) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	if !p.isToken(strings.TrimSpace(r.PostFormValue("token"))) {
		p.Log.Warn("wrong token for the page", "from", r.RemoteAddr)
		p.loginForm(w, http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: p.cookie(time.Now().Add(cookieFor).Unix()), Path: "/", MaxAge: int(cookieFor / time.Second),
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.Header.Get("X-Forwarded-Proto") == "https",
	})
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (p *page) loginForm(w http.ResponseWriter, status int) {
	body := p.files["/login.html"].body
	if status != http.StatusOK {
		body = bytes.Replace(body, []byte(" hidden"), nil, 1)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // who hung up does not want it
}

// refuse answers somebody without the token: a person with the form.
func (p *page) refuse(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" || r.URL.Path == "/index.html" {
		http.Redirect(w, r, "/login", http.StatusSeeOther)
		return
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
}
