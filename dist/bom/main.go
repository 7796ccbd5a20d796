// Bom writes what programs of lanyard's are made of, as the linker noted it in them: a bill of
// materials (CycloneDX, JSON), and the licences of the modules that are in them.
//
// It ends with an error where a module's licence is not one of those that it knows, which are all
// permissive.
package main

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	version := flag.String("version", "", "lanyard's `version`")
	sbom := flag.String("sbom", "", "write the bill of materials to this `file`")
	licences := flag.String("licences", "", "write the licences to this `file`")
	flag.Parse()
	if err := run(*version, *sbom, *licences, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

func run(version, sbom, licences string, binaries []string) error {
	modules, err := linked(binaries)
	if err != nil {
		return err
	}
	if err := os.WriteFile(licences, []byte(texts(modules)), 0o644); err != nil {
		return err
	}
	b, err := json.MarshalIndent(bill(version, modules), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(sbom, append(b, '\n'), 0o644)
}

// module is what a program has in it: a module of somebody's, or Go's standard library.
type module struct {
	Path, Version, Dir string
	licence            string // by SPDX
	text               string // of its licence, and of its notice if it has one
}

// linked are the modules in programs, sorted by path.
func linked(binaries []string) ([]module, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	found := map[string]module{}
	for _, path := range binaries {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, err
		}
		found["std"] = module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go"), Dir: strings.TrimSpace(string(root))}
		for _, dep := range info.Deps {
			if dep.Replace != nil {
				dep = dep.Replace
			}
			found[dep.Path] = module{Path: dep.Path, Version: dep.Version}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no program to look into")
	}
	var all []module
	for _, m := range found {
		if err := m.read(); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.Path, err)
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b module) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice)(\.(md|txt))?$`)

// read reads a module's licence, which is in Go's cache since it was built.
func (m *module) read() error {
	if m.Dir == "" {
		out, err := exec.Command("go", "mod", "download", "-json", m.Path+"@"+m.Version).Output()
		if err != nil {
			return fmt.Errorf("go mod download: %w: %s", err, out)
		}
		if err := json.Unmarshal(out, m); err != nil {
			return err
		}
	}
	files, err := os.ReadDir(m.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.IsDir() || !licenceFile.MatchString(f.Name()) {
			continue
		}
		b, err := os.ReadFile(filepath.Join(m.Dir, f.Name()))
		if err != nil {
			return err
		}
		m.licence = cmp.Or(m.licence, identify(string(b)))
		m.text += strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n")) + "\n"
	}
	if m.licence == "" {
		return fmt.Errorf("no licence that is known to be permissive in %s", m.Dir)
	}
	return nil
}

// identify is a licence's SPDX identifier, by words that it alone has.
func identify(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, l := range []struct{ id, words string }{
		{"Apache-2.0", "Apache License Version 2.0, January 2004"},
		{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
		{"BSD-3-Clause", "may be used to endorse or promote products derived from this software without specific prior written permission"},
		{"BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright notice"},
	} {
		if strings.Contains(text, l.words) {
			return l.id
		}
	}
	return ""
}

// texts are the licences, each once, behind the modules that have it.
func texts(modules []module) string {
	var order []string
	who := map[string][]string{}
	for _, m := range modules {
		if who[m.text] == nil {
			order = append(order, m.text)
		}
		who[m.text] = append(who[m.text], fmt.Sprintf("%s %s (%s)", m.Path, m.Version, m.licence))
	}
	var b strings.Builder
	b.WriteString("What is in lanyard beside its own code, and under which licence. std is Go's standard library.\n")
	for _, text := range order {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s", strings.Repeat("=", 80), strings.Join(who[text], "\n"), text)
	}
	return b.String()
}

// bill is a CycloneDX 1.5 document, without what would be another one each time it is made.
func bill(version string, modules []module) any {
	type licence struct {
		License map[string]string `json:"license"`
	}
	type component struct {
		Ref      string    `json:"bom-ref"`
		Type     string    `json:"type"`
		Name     string    `json:"name"`
		Version  string    `json:"version"`
		Licenses []licence `json:"licenses"`
		PURL     string    `json:"purl"`
	}
	type dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
	one := func(kind, path, version, id string) component {
		purl := "pkg:golang/" + path + "@" + version
		return component{purl, kind, path, version, []licence{{map[string]string{"id": id}}}, purl}
	}
	self := one("application", "github.com/lanyard-net/lanyard", version, "Apache-2.0")
	parts, needs := []component{}, []string{}
	for _, m := range modules {
		c := one("library", m.Path, m.Version, m.licence)
		parts, needs = append(parts, c), append(needs, c.Ref)
	}
	return map[string]any{
		"bomFormat":    "CycloneDX",
		"specVersion":  "1.5",
		"version":      1,
		"metadata":     map[string]any{"component": self},
		"components":   parts,
		"dependencies": []dependency{{self.Ref, needs}},
	}
}
