package main

import (
	"strings"
	"testing"
)

func TestHearsHost(t *testing.T) {
	for _, c := range []struct {
		name, mounts string
		want         bool
	}{
		{"a managed plugin", `612 590 0:52 / / rw,relatime - overlay overlay rw
640 612 0:25 / /run rw,nosuid,nodev master:13 - tmpfs tmpfs rw
641 640 0:26 / /run/lock rw - tmpfs tmpfs rw`, true},
		{"Docker's folder is a mount of its own", `640 612 0:25 / /run rw - tmpfs tmpfs rw
641 640 0:26 / /run/docker rw master:14 - tmpfs tmpfs rw`, true},
		{"the host's /run is private", `612 590 0:52 / / rw,relatime master:7 - overlay overlay rw
640 612 0:25 / /run rw,nosuid,nodev - tmpfs tmpfs rw`, false},
		{"nothing of the host's", `612 590 0:52 / / rw,relatime - overlay overlay rw`, false},
		{"a type like an option", `612 590 0:52 / / rw,relatime - overlay shared:1 rw`, false},
	} {
		if got := hearsHost(strings.NewReader(c.mounts)); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
