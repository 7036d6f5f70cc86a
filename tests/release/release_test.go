package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"rmq-entrypoint/tests/expect"
)

// What scripts/release makes of the last commit. For this machine it is made twice more, and
// compared; with -short only once, for this machine.
func TestRelease(t *testing.T) {
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if testing.Short() {
		maps.DeleteFunc(machines, func(arch string, _ elf.Machine) bool { return arch != runtime.GOARCH })
	}
	platforms := slices.Sorted(maps.Keys(machines))
	out, sums := release(t, platforms, "--once")
	if !testing.Short() {
		_, again := release(t, []string{runtime.GOARCH})
		if len(again) == 0 || !bytes.Contains(sums, again) {
			t.Errorf("made again it is\n%swhich is not in\n%s", again, sums)
		}
	}
	var want []string
	for _, arch := range platforms {
		name := "rmq-entrypoint-linux-" + arch
		want = append(want, name, name+".cdx.json", name+".image.tar")
	}
	listed := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		f := strings.Fields(line)
		listed[f[1]] = f[0]
	}
	entries, err := os.ReadDir(out)
	expect.Must(t, err)
	var have []string
	for _, e := range entries {
		if e.Name() != "SHA256SUMS" {
			have = append(have, e.Name())
			if is := digest(read(t, out, e.Name())); listed[e.Name()] != is {
				t.Errorf("SHA256SUMS has %s of %s, which has %s", listed[e.Name()], e.Name(), is)
			}
		}
	}
	if slices.Sort(want); !slices.Equal(have, want) || len(listed) != len(want) {
		t.Fatalf("made are %q and listed %q, want %q", have, listed, want)
	}
	for arch, machine := range machines {
		name := "rmq-entrypoint-linux-" + arch
		t.Run(arch, func(t *testing.T) {
			program := read(t, out, name)
			isStatic(t, program, machine)
			hasModules(t, program, read(t, out, name+".cdx.json"))
			holdsAlone(t, program, arch, read(t, out, name+".image.tar"))
		})
	}
	version, err := exec.Command(filepath.Join(out, "rmq-entrypoint-linux-"+runtime.GOARCH), "version").CombinedOutput()
	if err != nil || !strings.Contains(string(version), "v1.2.3-test") {
		t.Errorf("version: %s, %v", version, err)
	}
}

// release runs the script, and returns the directory that it made and the sums in it.
func release(t *testing.T, platforms []string, args ...string) (out string, sums []byte) {
	t.Helper()
	out = filepath.Join(t.TempDir(), "out")
	cmd := exec.Command("../../scripts/release", append(args, out)...)
	cmd.Env = append(os.Environ(), "RMQ_RELEASE_VERSION=v1.2.3-test", "RMQ_RELEASE_PLATFORMS="+strings.Join(platforms, " "), "RMQ_CACHE="+t.TempDir())
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, said)
	}
	return out, read(t, out, "SHA256SUMS")
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	expect.Must(t, err)
	return b
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func isStatic(t *testing.T, program []byte, machine elf.Machine) {
	f, err := elf.NewFile(bytes.NewReader(program))
	expect.Must(t, err)
	libraries, err := f.ImportedLibraries()
	if err != nil || len(libraries) > 0 || f.Machine != machine || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("machine %s, libraries %q, %v", f.Machine, libraries, err)
	}
	for _, path := range []string{"/tmp/", os.Getenv("HOME") + "/"} { // of whoever built it
		if bytes.Contains(program, []byte(path+"rmq-entrypoint-release")) || path != "/" && bytes.Contains(program, []byte(path+"go/pkg")) {
			t.Errorf("it names %s", path)
		}
	}
}

// hasModules holds the list of what is in the program against what Go wrote into it.
func hasModules(t *testing.T, program, list []byte) {
	var bom struct {
		BOMFormat, SpecVersion, SerialNumber string
		Metadata                             struct {
			Component struct {
				Name, Version string
				Hashes        []struct{ Alg, Content string }
			}
		}
		Components   []struct{ Name, Version, PURL, Type string }
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	expect.Must(t, json.Unmarshal(list, &bom))
	main := bom.Metadata.Component
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.5" || len(bom.SerialNumber) != 45 || main.Name != "rmq-entrypoint" || main.Version != "v1.2.3-test" || len(main.Hashes) != 1 || main.Hashes[0].Content != digest(program) {
		t.Errorf("%+v", bom.Metadata)
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	expect.Must(t, err)
	want := []string{"pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, m := range info.Deps {
		want = append(want, "pkg:golang/"+m.Path+"@"+m.Version)
	}
	var have []string
	for _, c := range bom.Components {
		have = append(have, c.PURL)
	}
	if !slices.Equal(have, want) || len(have) < 10 || len(bom.Dependencies) != 1 || !slices.Equal(bom.Dependencies[0].DependsOn, want) {
		t.Errorf("components %q, want %q", have, want)
	}
}

// holdsAlone holds an image against the layout: one layer, with the program and nothing else.
func holdsAlone(t *testing.T, program []byte, arch string, image []byte) {
	files := untar(t, image)
	type descriptor struct {
		Digest    string
		Size      int
		MediaType string
		Platform  struct{ OS, Architecture string }
	}
	blob := func(d descriptor) []byte {
		b := files["blobs/sha256/"+strings.TrimPrefix(d.Digest, "sha256:")]
		if len(b) == 0 || len(b) != d.Size || "sha256:"+digest(b) != d.Digest {
			t.Fatalf("%+v is of %d bytes", d, len(b))
		}
		return b
	}
	var index struct{ Manifests []descriptor }
	expect.Must(t, json.Unmarshal(files["index.json"], &index))
	if len(index.Manifests) != 1 || index.Manifests[0].Platform.Architecture != arch {
		t.Fatalf("%+v", index)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	expect.Must(t, json.Unmarshal(blob(index.Manifests[0]), &manifest))
	var config struct {
		Architecture, OS string
		RootFS           struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	expect.Must(t, json.Unmarshal(blob(manifest.Config), &config))
	if config.Architecture != arch || config.OS != "linux" || len(manifest.Layers) != 1 || !slices.Equal(config.RootFS.DiffIDs, []string{manifest.Layers[0].Digest}) {
		t.Fatalf("%+v, %+v", config, manifest)
	}
	if layer := untar(t, blob(manifest.Layers[0])); len(layer) != 1 || !bytes.Equal(layer["rmq-entrypoint"], program) {
		t.Errorf("the layer has %d files", len(layer))
	}
	var docker []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	expect.Must(t, json.Unmarshal(files["manifest.json"], &docker))
	if len(docker) != 1 || !slices.Equal(docker[0].RepoTags, []string{"rmq-entrypoint:v1.2.3-test-binary-" + arch}) || files[docker[0].Config] == nil || len(docker[0].Layers) != 1 || files[docker[0].Layers[0]] == nil {
		t.Errorf("%+v", docker)
	}
}

func untar(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		expect.Must(t, err)
		if head.Uid != 0 || head.Gid != 0 || head.Uname+head.Gname != "" {
			t.Errorf("%s is of %d:%d", head.Name, head.Uid, head.Gid)
		}
		files[head.Name], err = io.ReadAll(r)
		expect.Must(t, err)
	}
}

// What is given is a program of Go's without C, or refused.
func TestReleaseRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	expect.Must(t, os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600))
	self, err := os.Executable()
	expect.Must(t, err)
	for _, args := range [][]string{nil, {"sbom", self, "v1"}, {"sbom", text, "v1", "0"}, {"sbom", "/nowhere", "v1", "0"}, {"sbom", self, "v1", "now"}, {"image", self, "v1", "0"}, {"other", self, "v1", "0"}} {
		var out bytes.Buffer
		if err := run(args, &out); err == nil || out.Len() > 0 {
			t.Errorf("%q: %v, %d bytes", args, err, out.Len())
		}
	}
}
