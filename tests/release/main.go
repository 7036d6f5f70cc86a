// The command release writes what goes with a built program into a release: the list of what is in
// it (CycloneDX), and an image that holds the program alone. It is a tool of scripts/release. The
// same program gives the same bytes.
//
//	release sbom PROGRAM VERSION TIME             prints the list
//	release image PROGRAM VERSION TIME REFERENCE  prints the image, as a tar
//
// VERSION and TIME are those of the commit; TIME is in seconds since 1970.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	if len(args) < 4 {
		return errors.New("it takes sbom PROGRAM VERSION TIME, or image PROGRAM VERSION TIME REFERENCE")
	}
	seconds, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return fmt.Errorf("read the time: %w", err)
	}
	p, err := readProgram(args[1], args[2], time.Unix(seconds, 0).UTC())
	switch {
	case err != nil:
		return err
	case args[0] == "sbom" && len(args) == 4:
		return writeJSON(out, p.sbom())
	case args[0] == "image" && len(args) == 5:
		return p.image(out, args[4])
	}
	return fmt.Errorf("it takes no %q", args)
}

// A program is a built one, and what Go wrote into it.
type program struct {
	text    []byte
	info    *buildinfo.BuildInfo
	version string
	at      time.Time
}

func readProgram(path, version string, at time.Time) (p program, err error) {
	p.version, p.at = version, at
	if p.text, err = os.ReadFile(path); err != nil {
		return p, err
	}
	p.info, err = buildinfo.Read(bytes.NewReader(p.text))
	if err == nil && p.setting("CGO_ENABLED") != "0" {
		err = fmt.Errorf("%s was built with cgo, so it is not static", path)
	}
	return p, err
}

func (p program) setting(key string) string {
	for _, s := range p.info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

type object = map[string]any

// sbom is a CycloneDX 1.5 document: the program, Go's standard library and each module in it.
func (p program) sbom() any {
	sum := sha256.Sum256(p.text)
	main := object{
		"type": "application", "bom-ref": "rmq-entrypoint", "name": "rmq-entrypoint", "version": p.version,
		"hashes": []object{{"alg": "SHA-256", "content": hex.EncodeToString(sum[:])}}, "licenses": []object{{"license": object{"id": "Apache-2.0"}}},
		"properties": []object{{"name": "platform", "value": p.setting("GOOS") + "/" + p.setting("GOARCH")}},
	}
	library := func(path, version, sum string) object {
		purl := "pkg:golang/" + path + "@" + version
		c := object{"type": "library", "bom-ref": purl, "name": path, "version": version, "purl": purl}
		if sum != "" { // of go.sum: of the module's files, not of one file
			c["properties"] = []object{{"name": "go.sum", "value": sum}}
		}
		return c
	}
	components := []object{library("std", strings.TrimPrefix(p.info.GoVersion, "go"), "")}
	for _, m := range p.info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		components = append(components, library(m.Path, m.Version, m.Sum))
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c["bom-ref"].(string))
	}
	return object{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"serialNumber": "urn:uuid:" + uuid(sum),
		"metadata":     object{"timestamp": p.at.Format(time.RFC3339), "component": main},
		"components":   components,
		"dependencies": []object{{"ref": "rmq-entrypoint", "dependsOn": refs}},
	}
}

// uuid makes one of a hash (version 8, of RFC 9562).
func uuid(sum [sha256.Size]byte) string {
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// image writes an image of the program alone, /rmq-entrypoint: an OCI layout, with the
// manifest.json by which `docker load` of any age reads it, too.
func (p program) image(out io.Writer, reference string) error {
	layer := new(bytes.Buffer)
	if err := archive(layer, p.at, file{"rmq-entrypoint", p.text, 0o755}); err != nil {
		return err
	}
	var blobs []file
	blob := func(text []byte, mediaType string) object {
		sum := sha256.Sum256(text)
		digest := hex.EncodeToString(sum[:])
		blobs = append(blobs, file{"blobs/sha256/" + digest, text, 0o644})
		return object{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(text)}
	}
	encoded := func(v any) []byte {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // strings and numbers alone
		}
		return text
	}
	const oci = "application/vnd.oci.image."
	inside := blob(layer.Bytes(), oci+"layer.v1.tar")
	platform := object{"os": p.setting("GOOS"), "architecture": p.setting("GOARCH")}
	config := blob(encoded(object{
		"os": platform["os"], "architecture": platform["architecture"], "created": p.at.Format(time.RFC3339),
		"config": object{"Entrypoint": []string{"/rmq-entrypoint"}, "Labels": object{
			"org.opencontainers.image.title": "rmq-entrypoint", "org.opencontainers.image.version": p.version, "org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.description": "the program alone, for COPY --from",
		}},
		"rootfs":  object{"type": "layers", "diff_ids": []any{inside["digest"]}},
		"history": []object{{"created": p.at.Format(time.RFC3339), "created_by": "scripts/release"}},
	}), oci+"config.v1+json")
	manifest := blob(encoded(object{"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []object{inside}}), oci+"manifest.v1+json")
	manifest["platform"], manifest["annotations"] = platform, object{"org.opencontainers.image.ref.name": reference}
	path := func(o object) string { return "blobs/sha256/" + strings.TrimPrefix(o["digest"].(string), "sha256:") }
	return archive(out, p.at, append([]file{
		{"oci-layout", encoded(object{"imageLayoutVersion": "1.0.0"}), 0o644},
		{"index.json", encoded(object{"schemaVersion": 2, "mediaType": oci + "index.v1+json", "manifests": []object{manifest}}), 0o644},
		{"manifest.json", encoded([]object{{"Config": path(config), "RepoTags": []string{reference}, "Layers": []string{path(inside)}}}), 0o644},
	}, blobs...)...)
}

type file struct {
	name string
	text []byte
	mode int64
}

// archive writes files as root's, all of that time.
func archive(out io.Writer, at time.Time, files ...file) error {
	w := tar.NewWriter(out)
	for _, f := range files {
		head := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.text)), Mode: f.mode, ModTime: at, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(head); err != nil {
			return err
		}
		if _, err := w.Write(f.text); err != nil {
			return err
		}
	}
	return w.Close()
}
