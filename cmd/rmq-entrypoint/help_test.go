package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The package doc is the contract, and --help prints the same one.
func TestPackageDocIsTheHelp(t *testing.T) {
	var out strings.Builder
	if err := help(&out); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	words := func(s string) string {
		return strings.Join(strings.Fields(regexp.MustCompile(`(?m)^(//|package main$)`).ReplaceAllString(s, "")), " ")
	}
	doc, want := words(string(src)), words(out.String())
	if !strings.EqualFold(doc, want) {
		t.Errorf("doc.go is not what --help prints:\n%s\nwant\n%s", doc, want)
	}
}
