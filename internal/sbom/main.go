// Command sbom prints a CycloneDX 1.5 document of what Go programs were built from, as the programs themselves say: the modules
// of their build information. The same programs give the same document. build.sh writes one for each release.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

func main() {
	if err := write(os.Stdout, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// component is a program, a module or the toolchain.
type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// dependency says what a component is made of.
type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// document is a CycloneDX document.
type document struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

// write writes the document of programs.
func write(w io.Writer, programs []string) error {
	d := document{Schema: "http://cyclonedx.org/schema/bom-1.5.schema.json", Format: "CycloneDX", SpecVersion: "1.5", Version: 1}
	modules := map[string]component{}
	for _, path := range programs {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		program := component{Type: "application", Ref: filepath.Base(path), Name: filepath.Base(path)}
		for _, s := range info.Settings {
			if s.Key == "GOARCH" || s.Key == "GOOS" {
				program.Properties = append(program.Properties, property{"go:" + s.Key, s.Value})
			}
		}
		made := dependency{Ref: program.Ref}
		for _, m := range append([]*debug.Module{{Path: "std", Version: info.GoVersion}}, info.Deps...) {
			if m.Replace != nil {
				m = m.Replace
			}
			c := moduleOf(m)
			modules[c.Ref], made.DependsOn = c, append(made.DependsOn, c.Ref)
		}
		slices.Sort(made.DependsOn)
		d.Components, d.Dependencies = append(d.Components, program), append(d.Dependencies, made)
	}
	for _, ref := range slices.Sorted(maps.Keys(modules)) {
		d.Components = append(d.Components, modules[ref])
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(d)
}

func moduleOf(m *debug.Module) component {
	version := strings.TrimPrefix(m.Version, "go")
	// The purl of a Go module has its path in lower case, and a plus sign in its version percent-encoded.
	purl := "pkg:golang/" + strings.ToLower(m.Path) + "@" + url.QueryEscape(version)
	c := component{Type: "library", Ref: purl, Name: m.Path, Version: version, PURL: purl}
	if m.Sum != "" {
		c.Properties = []property{{"go:sum", m.Sum}}
	}
	return c
}
