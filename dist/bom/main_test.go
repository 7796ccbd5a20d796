package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLinked(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	modules, err := linked([]string{self})
	if err != nil {
		t.Fatal(err)
	}
	if len(modules) != 1 || modules[0].Path != "std" || modules[0].licence != "BSD-3-Clause" {
		t.Errorf("%+v, want the standard library alone", modules)
	}
	if out := texts(modules); !strings.Contains(out, "\nstd "+modules[0].Version+" (BSD-3-Clause)\n") || !strings.Contains(out, "Redistribution and use") {
		t.Error(out)
	}
}

func TestLicence(t *testing.T) {
	for text, want := range map[string]string{
		"                                 Apache License\n                           Version 2.0, January 2004\n": "Apache-2.0",
		"Permission is hereby granted, free of charge, to any person\nobtaining a copy":                           "MIT",
		"GNU GENERAL PUBLIC LICENSE\nVersion 3":                                                                   "",
	} {
		m := module{Path: "x", Dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(m.Dir, "LICENSE"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := m.read()
		if m.licence != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v; want %q", text, m.licence, err, want)
		}
	}
}
