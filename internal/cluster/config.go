package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
)

// Scheme begins the text of a cluster's store.
const Scheme = "etcd://"

// Config is where the cluster's store is, and who asks.
type Config struct {
	// Endpoints are the members of etcd, host:port each.
	Endpoints []string
	// Prefix begins all keys.
	Prefix string
	// CA, Cert and Key are PEM files: those who etcd is checked against, and what this host
	// shows. TLS says that etcd is asked by TLS at all.
	TLS           bool
	CA, Cert, Key string
	// User asks, where etcd wants to know. PasswordFile holds the password, and perhaps a
	// newline after it.
	User, PasswordFile string
	// Host is the ID of this host, Name its name for people, Version that of its lanyard.
	Host, Name, Version string
}

// Parse reads
//
//	etcd://HOST[:PORT][,HOST[:PORT]...][/PREFIX][?user=NAME&password-file=FILE&tls=on&ca=FILE&cert=FILE&key=FILE]
//
// The prefix is lanyard where none is given, and the port 2379. ca, cert and key imply tls.
func Parse(text string) (Config, error) {
	rest, ok := strings.CutPrefix(text, Scheme)
	if !ok {
		return Config{}, fmt.Errorf("it begins with %s", Scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, prefix, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") {
		return Config{}, errors.New("user and password are not part of it, since anybody may see a command line; try: ?user=NAME&password-file=FILE")
	}
	c := Config{Prefix: "/" + strings.Trim(prefix, "/")}
	if c.Prefix == "/" {
		c.Prefix = "/lanyard"
	}
	for host := range strings.SplitSeq(hosts, ",") {
		name, port, err := net.SplitHostPort(host)
		if err != nil {
			name, port = strings.Trim(host, "[]"), "2379"
		}
		if name == "" || strings.ContainsAny(name, " \t") {
			return Config{}, fmt.Errorf("%q is no host; try: %shost1:2379,host2:2379", host, Scheme)
		}
		c.Endpoints = append(c.Endpoints, net.JoinHostPort(name, port))
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Config{}, err
	}
	for name, list := range values {
		value := list[len(list)-1]
		switch name {
		case "user":
			c.User = value
		case "password-file":
			c.PasswordFile = value
		case "tls":
			if value != "on" && value != "off" {
				return Config{}, fmt.Errorf("tls=%s: it is on or off", value)
			}
			c.TLS = c.TLS || value == "on"
		case "ca", "cert", "key":
			*map[string]*string{"ca": &c.CA, "cert": &c.Cert, "key": &c.Key}[name] = value
			c.TLS = true
		default:
			return Config{}, fmt.Errorf("%q is not known: there are user, password-file, tls, ca, cert and key", name)
		}
	}
	if (c.Cert == "") != (c.Key == "") {
		return Config{}, errors.New("cert and key belong together")
	}
	if (c.User == "") != (c.PasswordFile == "") {
		return Config{}, errors.New("user and password-file belong together")
	}
	return c, nil
}

// Where names the members, without secrets.
func (c *Config) Where() string { return strings.Join(c.Endpoints, ",") }

func (c *Config) tls() (*tls.Config, error) {
	if !c.TLS {
		return nil, nil //nolint:nilnil // there is none
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no certificate in PEM", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("cert: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func (c *Config) password() (string, error) {
	if c.PasswordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password-file: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}
