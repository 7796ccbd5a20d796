package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// authority signs certificates, which are in files beside its own.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = template, a.sign("ca", template)
	return a
}

// sign makes a key and a certificate of it, in NAME.key and NAME.pem.
func (a *authority) sign(name string, c *x509.Certificate) *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	cert, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: cert}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// leaf signs a certificate for a server on the loopback, and for a client.
func (a *authority) leaf(name string) {
	a.sign(name, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// try says whether a host gets to etcd by a text of --store, within some seconds.
func try(t *testing.T, text string, wait time.Duration) bool {
	t.Helper()
	conf, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	conf.Host, conf.Name = "id-a", "a"
	c, err := New(conf, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run, func([]byte) error { return nil }) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, down := c.Up(); down == nil {
			return true
		}
	}
	return false
}

// By TLS, with and without a certificate of the host's own, and as a user with a password.
func TestTLSAndUsers(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.leaf("etcd")
	a.leaf("host")
	e := kerneltest.NewTLSEtcd(t, "--cert-file", a.file("etcd.pem"), "--key-file", a.file("etcd.key"), "--trusted-ca-file", a.file("ca.pem"), "--client-cert-auth")
	base := e.URL() + "/site?ca=" + a.file("ca.pem")
	mutual := base + "&cert=" + a.file("host.pem") + "&key=" + a.file("host.key")
	if !try(t, mutual, 20*time.Second) {
		t.Error("not by TLS with a certificate")
	}
	if try(t, base, 3*time.Second) {
		t.Error("without a certificate, which etcd asks for")
	}
	if try(t, e.URL()+"/site?ca="+other.file("ca.pem")+"&cert="+a.file("host.pem")+"&key="+a.file("host.key"), 3*time.Second) {
		t.Error("although another authority signed etcd's certificate")
	}
	if try(t, e.URL()+"/site", 3*time.Second) {
		t.Error("without TLS")
	}

	// Without a certificate of the host's own, and then with users.
	e = kerneltest.NewTLSEtcd(t, "--cert-file", a.file("etcd.pem"), "--key-file", a.file("etcd.key"))
	base = e.URL() + "/site?ca=" + a.file("ca.pem")
	if !try(t, base, 20*time.Second) {
		t.Error("not by TLS without a certificate")
	}
	conf, err := Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	tls, err := conf.tls()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := clientv3.New(clientv3.Config{Endpoints: conf.Endpoints, TLS: tls})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admin.UserAdd(ctx, "root", "secret"))
	must(admin.UserGrantRole(ctx, "root", "root"))
	must(admin.RoleAdd(ctx, "lanyard"))
	// As docs/cluster.md says.
	must(admin.RoleGrantPermission(ctx, "lanyard", "/site/", clientv3.GetPrefixRangeEnd("/site/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(admin.UserAdd(ctx, "lanyard", "pass word"))
	must(admin.UserGrantRole(ctx, "lanyard", "lanyard"))
	must(admin.AuthEnable(ctx))
	for name, text := range map[string]string{"right": "pass word\n", "wrong": "password"} {
		if err := os.WriteFile(a.file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !try(t, base+"&user=lanyard&password-file="+a.file("right"), 10*time.Second) {
		t.Error("not as a user with a password")
	}
	if try(t, base+"&user=lanyard&password-file="+a.file("wrong"), 3*time.Second) {
		t.Error("with a wrong password")
	}
	if try(t, base, 3*time.Second) {
		t.Error("without a user")
	}
}
