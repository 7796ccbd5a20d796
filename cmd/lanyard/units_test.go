package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The units and the binary agree on names and paths.
func TestUnits(t *testing.T) {
	for file, lines := range map[string][]string{
		"lanyard.socket": {
			"ListenStream=" + defaultPluginSocket,
			"FileDescriptorName=" + pluginName,
			"Before=docker.service",
		},
		"lanyard.service": {
			"Type=notify",
			"ExecStart=/usr/local/bin/lanyard daemon",
			"StateDirectory=" + strings.TrimPrefix(defaultStateDir, "/var/lib/"),
			"RuntimeDirectory=" + strings.TrimPrefix(filepath.Dir(defaultControlSocket), "/run/"),
			"Before=docker.service",
		},
	} {
		b, err := os.ReadFile(filepath.Join("..", "..", "dist", "systemd", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(string(b), "\n"+line+"\n") {
				t.Errorf("%s has no line %q", file, line)
			}
		}
	}
}
