package main

import (
	"os"
	"strings"
	"testing"
)

func headOf(date string) string {
	return "# Benchmarks\n\n| | |\n|---|---|\n| date | " + date + " |\n| lanyard | abc |\n\nTimes."
}

func TestPageAsItWas(t *testing.T) {
	text, err := os.ReadFile("../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if got := parsePage(string(text)).String(); got != string(text) {
		t.Errorf("the page comes out another:\n%s", got)
	}
}

func TestMerge(t *testing.T) {
	all := page{headOf("day 1"), []section{{"Docker 20", "drivers 1"}, {"The handlers, without Docker", "handlers 1"}, {"Addresses", "addresses 1"}, {"Notes", "by hand"}}}
	addresses := page{headOf("day 2"), []section{{"Addresses", "addresses 2"}}}
	drivers := page{headOf("day 3"), []section{{"Docker 28", "drivers 3"}}}
	for name, tc := range map[string]struct {
		got  page
		want string
	}{
		"first": {addresses.merge(page{}), headOf("day 2") + "\n\n## Addresses\n\naddresses 2\n"},
		"addresses": {addresses.merge(all), headOf("day 1") + "\n\n## Docker 20\n\ndrivers 1\n\n## The handlers, without Docker\n\nhandlers 1\n\n" +
			"## Addresses\n\nMeasured in a run of its own: day 2; lanyard abc.\n\naddresses 2\n\n## Notes\n\nby hand\n"},
		"drivers": {drivers.merge(all), headOf("day 3") + "\n\n## Docker 28\n\ndrivers 3\n\n" +
			"## The handlers, without Docker\n\nMeasured in a run of its own: day 1; lanyard abc.\n\nhandlers 1\n\n" +
			"## Addresses\n\nMeasured in a run of its own: day 1; lanyard abc.\n\naddresses 1\n\n" +
			"## Notes\n\nMeasured in a run of its own: day 1; lanyard abc.\n\nby hand\n"},
		"twice": {drivers.merge(addresses.merge(all)), "Measured in a run of its own: day 2; lanyard abc.\n\naddresses 2\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.got.String(); got != tc.want && (name != "twice" || !strings.Contains(got, tc.want)) {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
			if again := parsePage(tc.got.String()); again.String() != tc.got.String() {
				t.Error("it does not parse to itself")
			}
		})
	}
}
