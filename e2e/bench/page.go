package main

import (
	"regexp"
	"strings"
)

// parts are what can be measured without the others, in the order of the page, each
// with how its sections' titles begin.
var parts = []struct{ name, title string }{
	{"drivers", "Docker "},
	{"handlers", "The handlers"},
	{"addresses", "Addresses"},
	{"dhcp", "DHCP"},
}

// section is a chapter of the page.
type section struct {
	title string
	text  string // all below the title, without blank lines around it
}

func (s section) part() string {
	for _, p := range parts {
		if strings.HasPrefix(s.title, p.title) {
			return p.name
		}
	}
	return ""
}

// page is docs/benchmarks.md: what it says of the machine and the measuring, and
// sections.
type page struct {
	head     string
	sections []section
}

func parsePage(text string) page {
	head, rest, found := strings.Cut(text, "\n## ")
	p := page{head: strings.TrimSpace(head)}
	for found {
		var chapter string
		chapter, rest, found = strings.Cut(rest, "\n## ")
		title, body, _ := strings.Cut(chapter, "\n")
		p.sections = append(p.sections, section{title, strings.TrimSpace(body)})
	}
	return p
}

func (p page) String() string {
	var b strings.Builder
	b.WriteString(p.head + "\n")
	for _, s := range p.sections {
		b.WriteString("\n## " + s.title + "\n\n" + s.text + "\n")
	}
	return b.String()
}

// merge is old with what p measured in place of what old has of the same parts. The
// head is that of the run that measured the drivers; sections of another run say
// which.
func (p page) merge(old page) page {
	made := map[string]bool{}
	for _, s := range p.sections {
		made[s.part()] = true
	}
	merged := page{head: old.head}
	if made[parts[0].name] || old.head == "" {
		merged.head = p.head
	}
	add := func(from page, part string) {
		for _, s := range from.sections {
			if s.part() != part {
				continue
			}
			if from.head != merged.head && !strings.HasPrefix(s.text, stampStart) {
				s.text = stamp(from.head) + s.text
			}
			merged.sections = append(merged.sections, s)
		}
	}
	for _, part := range parts {
		if made[part.name] {
			add(p, part.name)
		} else {
			add(old, part.name)
		}
	}
	add(old, "") // of no part that we know
	return merged
}

const stampStart = "Measured in a run of its own: "

var headRow = regexp.MustCompile(`(?m)^\| (date|lanyard|machine|system) \| (.*) \|$`)

// stamp says of which run a section is that is not the head's.
func stamp(head string) string {
	var facts []string
	for _, m := range headRow.FindAllStringSubmatch(head, -1) {
		if m[1] == "lanyard" {
			m[2] = "lanyard " + m[2]
		}
		facts = append(facts, m[2])
	}
	return stampStart + strings.Join(facts, "; ") + ".\n\n"
}
