package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// unpacked is a tar archive in memory.
type unpacked map[string]unpackedFile

type unpackedFile struct {
	header tar.Header
	data   []byte
}

func unpack(t *testing.T, r io.Reader) unpacked {
	t.Helper()
	files := unpacked{}
	for reader := tar.NewReader(r); ; {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		files[h.Name] = unpackedFile{*h, data}
	}
}

// image is one image of an archive.
type image struct {
	Config imageJSON
	Layer  []byte
}

// load reads an archive as `docker load` does, by name, and checks every digest.
func load(t *testing.T, archive []byte) map[string]image {
	t.Helper()
	files := unpack(t, bytes.NewReader(archive))
	for name, f := range files {
		digest, ok := strings.CutPrefix(name, "blobs/sha256/")
		if sum := sha256.Sum256(f.data); ok && digest != "" && digest != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has another digest", name)
		}
	}
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	decode(t, files, "manifest.json", &manifest)
	images := map[string]image{}
	for _, m := range manifest {
		if len(m.Layers) != 1 {
			t.Fatalf("layers: %q", m.Layers)
		}
		var i image
		decode(t, files, m.Config, &i.Config)
		i.Layer = files[m.Layers[0]].data
		if sum := sha256.Sum256(i.Layer); !slices.Equal(i.Config.RootFS.Diffs, []string{"sha256:" + hex.EncodeToString(sum[:])}) {
			t.Errorf("the layer is not that of %s", m.Config)
		}
		for _, tag := range m.RepoTags {
			images[tag] = i
		}
	}
	checkIndex(t, files, images)
	return images
}

// checkIndex follows the other way in, that of OCI.
func checkIndex(t *testing.T, files unpacked, images map[string]image) {
	t.Helper()
	var index struct {
		Manifests []struct {
			Digest      string
			Platform    platform
			Annotations map[string]string
		}
	}
	decode(t, files, "index.json", &index)
	if len(index.Manifests) != len(images) {
		t.Errorf("%d manifests in index.json for %d tags", len(index.Manifests), len(images))
	}
	for _, m := range index.Manifests {
		var manifest struct{ Config blob }
		decode(t, files, "blobs/sha256/"+strings.TrimPrefix(m.Digest, "sha256:"), &manifest)
		var config imageJSON
		decode(t, files, manifest.Config.path(), &config)
		name := strings.TrimPrefix(m.Annotations["io.containerd.image.name"], "docker.io/library/")
		if want, ok := images[name]; !ok || config.RootFS.Diffs[0] != want.Config.RootFS.Diffs[0] || m.Platform != want.Config.platform {
			t.Errorf("%s differs between index.json and manifest.json", name)
		}
	}
	if layout := string(files["oci-layout"].data); layout != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout: %s", layout)
	}
}

func decode(t *testing.T, files unpacked, name string, v any) {
	t.Helper()
	f, ok := files[name]
	if !ok {
		t.Fatalf("there is no %s", name)
	}
	if err := json.Unmarshal(f.data, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// packed runs the program on a stand-in for the binary.
func packed(t *testing.T, out string, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"detour": "binary", "roots.pem": "roots", "LICENSE": "licence"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	kind, files := args[0], args[1:]
	flags := []string{kind, "-o", filepath.Join(dir, out), "-binary", filepath.Join(dir, "detour"), "-version", "v1"}
	if kind == "archive" {
		files = append(files, filepath.Join(dir, "LICENSE"))
	} else {
		flags = append(flags, "-roots", filepath.Join(dir, "roots.pem"))
	}
	if err := run(append(flags, files...)); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, out))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoadable(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	archive := packed(t, "image.tar", "image", "-arch", "armv7")
	if !bytes.Equal(archive, packed(t, "image.tar", "image", "-arch", "armv7")) {
		t.Error("the second time gives other bytes")
	}
	images := load(t, archive)
	for name, user := range map[string]string{"detour:v1": "", "detour:latest": "", "detour:v1-nonroot": "65532:65532", "detour:nonroot": "65532:65532"} {
		i, ok := images[name]
		if !ok || i.Config.Config.User != user || i.Config.platform != (platform{"linux", "arm", "v7"}) || i.Config.Created != "2023-11-14T22:13:20Z" {
			t.Errorf("%s: %+v", name, i.Config)
		}
	}
	layer := unpack(t, bytes.NewReader(images["detour:v1"].Layer))
	for name, want := range map[string]struct {
		mode int64
		uid  int
		data string
	}{
		"usr/local/bin/detour": {0o755, 0, "binary"}, "etc/ssl/certs/ca-certificates.crt": {0o644, 0, "roots"},
		"var/lib/detour/": {0o700, 65532, ""}, "tmp/": {0o1777, 0, ""}, "etc/passwd": {0o644, 0, passwd},
	} {
		f := layer[name]
		if f.header.Mode != want.mode || f.header.Uid != want.uid || string(f.data) != want.data || f.header.ModTime.Unix() != 1700000000 {
			t.Errorf("%s: mode %o, owner %d, %q at %v", name, f.header.Mode, f.header.Uid, f.data, f.header.ModTime)
		}
	}
	if !bytes.Equal(packed(t, "rootfs.tar", "rootfs"), images["detour:v1"].Layer) {
		t.Error("a Dockerfile would take another root file system")
	}
}

func TestArchive(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	z, err := gzip.NewReader(bytes.NewReader(packed(t, "detour_v1_linux_amd64.tar.gz", "archive")))
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, z)
	if f := files["detour_v1_linux_amd64/detour"]; f.header.Mode != 0o755 || string(f.data) != "binary" || f.header.Uid != 0 {
		t.Errorf("binary: %+v", f)
	}
	if f := files["detour_v1_linux_amd64/LICENSE"]; f.header.Mode != 0o644 || string(f.data) != "licence" || f.header.ModTime.Year() != 1980 {
		t.Errorf("licence: %+v", f)
	}
}

func TestErrors(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	there := filepath.Join(t.TempDir(), "detour")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"": "usage", "image": "read the binary", "box -binary " + there + " -roots " + there: "is unknown",
		"image -arch mips -binary " + there + " -roots " + there: "is unknown", "image -roots /nowhere -binary " + there: "CA certificates",
		"archive -binary " + there + " -o x.tar.gz /nowhere": "/nowhere",
	} {
		if err := run(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "today")
	if err := run([]string{"image"}); err == nil {
		t.Error("today is taken for a number")
	}
}

// The Dockerfile says the same as the images that are made without it.
func TestDockerfileAgrees(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]string{}
	for _, part := range strings.Split(string(text), "\nFROM ")[1:] {
		name := regexp.MustCompile(`^.* AS (\w+)\n`).FindStringSubmatch(part)
		stages[name[1]] = strings.ReplaceAll(part, "\\\n", " ")
	}
	field := func(stage, instruction string) string {
		m := regexp.MustCompile(`(?m)^` + instruction + ` (.*)$`).FindStringSubmatch(stages[stage])
		if m == nil {
			t.Fatalf("no %s in stage %s", instruction, stage)
		}
		return strings.Join(strings.Fields(m[1]), " ")
	}
	list := func(words []string) string {
		b, err := json.Marshal(words)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(b), ",", ", ")
	}
	root, nonroot := configOf(variants[0], "v1"), configOf(variants[1], "v1")
	h := root.Healthcheck
	for _, tt := range []struct{ stage, instruction, want string }{
		{"base", "ENV", strings.Join(root.Env, " ")},
		{"base", "WORKDIR", root.WorkingDir},
		{"base", "STOPSIGNAL", root.StopSignal},
		{"base", "ENTRYPOINT", list(root.Entrypoint)},
		{"base", "HEALTHCHECK", "--interval=" + short(h.Interval) + " --timeout=" + short(h.Timeout) + " --start-period=" + short(h.StartPeriod) + " --retries=3 CMD " + list(h.Test[1:])},
		{"nonroot", "USER", nonroot.User},
	} {
		if got := field(tt.stage, tt.instruction); got != tt.want {
			t.Errorf("%s of stage %s: %s, want %s", tt.instruction, tt.stage, got, tt.want)
		}
	}
	for stage, ports := range map[string]map[string]struct{}{"root": root.ExposedPorts, "nonroot": nonroot.ExposedPorts} {
		sameSet(t, stage+" EXPOSE", strings.Fields(field(stage, "EXPOSE")), ports)
	}
	sameSet(t, "VOLUME", regexp.MustCompile(`/[a-z/]+`).FindAllString(field("base", "VOLUME"), -1), root.Volumes)
	if strings.Contains(stages["root"], "USER") || !strings.HasSuffix(strings.TrimSpace(string(text)), "EXPOSE 443/tcp 80/tcp 3478/udp") {
		t.Error("the last stage, which is the default, is not the one that begins as root")
	}
}

func short(d time.Duration) string { return d.String() }

func sameSet(t *testing.T, what string, got []string, want map[string]struct{}) {
	t.Helper()
	for _, g := range got {
		if _, ok := want[g]; !ok {
			t.Errorf("%s: %s is not in the image's", what, g)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %q, want %v", what, got, want)
	}
}
