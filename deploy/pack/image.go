package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// imageConfig is how a container of the image is run. The JSON names are those
// of the OCI image configuration; Healthcheck is Docker's addition to it.
type imageConfig struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts"`
	Env          []string            `json:"Env"`
	Entrypoint   []string            `json:"Entrypoint"`
	Healthcheck  healthcheck         `json:"Healthcheck"`
	Volumes      map[string]struct{} `json:"Volumes"`
	WorkingDir   string              `json:"WorkingDir"`
	Labels       map[string]string   `json:"Labels"`
	StopSignal   string              `json:"StopSignal"`
}

type healthcheck struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration // in nanoseconds, as Docker has it
	Retries                        int
}

// variant is one of the images that share the layer.
type variant struct {
	suffix string // of the version in its tag
	latest string // its tag besides
	user   string // empty: root, which the relay gives up by itself
}

var variants = []variant{{"", "latest", ""}, {"-nonroot", "nonroot", "65532:65532"}}

func (v variant) tags(version string) []string { return []string{version + v.suffix, v.latest} }

// configOf is what deploy/Dockerfile says too; a test compares them.
func configOf(v variant, version string) imageConfig {
	c := imageConfig{
		User:         v.user,
		ExposedPorts: map[string]struct{}{"443/tcp": {}, "80/tcp": {}, "3478/udp": {}},
		Env: []string{
			"PATH=/usr/local/bin",
			"DETOUR_STATE_DIR=/var/lib/detour",
			"DETOUR_ADMIN_LISTEN=unix:/var/lib/detour/admin.sock",
			"DETOUR_RUN_AS=65532:65532",
		},
		Entrypoint: []string{"/usr/local/bin/detour", "container"},
		Healthcheck: healthcheck{
			Test:     []string{"CMD", "/usr/local/bin/detour", "healthcheck"},
			Interval: 30 * time.Second, Timeout: 10 * time.Second, StartPeriod: 10 * time.Second, Retries: 3,
		},
		Volumes:    map[string]struct{}{"/var/lib/detour": {}, "/var/lib/derper": {}, "/app/certs": {}},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "Detour",
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.licenses": "BSD-3-Clause",
		},
		StopSignal: "SIGTERM",
	}
	if v.user != "" { // ports below 1024 may not be had
		c.ExposedPorts = map[string]struct{}{"8443/tcp": {}, "3478/udp": {}}
	}
	return c
}

// blob is one content-addressed file of the archive.
type blob struct {
	Media  string `json:"mediaType"`
	Digest string `json:"digest"`
	Size   int    `json:"size"`
	data   []byte
}

func newBlob(media string, data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{media, "sha256:" + hex.EncodeToString(sum[:]), len(data), data}
}

func (b blob) path() string { return "blobs/sha256/" + b.Digest[len("sha256:"):] }

// The media types of the OCI image specification.
const (
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
)

// platform is what the images run on.
type platform struct {
	OS      string `json:"os"`
	Arch    string `json:"architecture"`
	Variant string `json:"variant,omitempty"` // v7 of arm
}

// repository is the name under which a loaded image is found.
const repository = "detour"

// The OCI image configuration.
type (
	imageJSON struct {
		Created string `json:"created"`
		platform
		Config  imageConfig   `json:"config"`
		RootFS  rootfsJSON    `json:"rootfs"`
		History []historyJSON `json:"history"`
	}
	rootfsJSON struct {
		Type  string   `json:"type"`
		Diffs []string `json:"diff_ids"`
	}
	historyJSON struct {
		Created string `json:"created"`
		By      string `json:"created_by"`
		Comment string `json:"comment"`
	}
)

// imageArchive writes all variants as one archive that `docker load` takes, old
// versions by manifest.json and new ones, like other OCI tools, by index.json.
func imageArchive(w io.Writer, version string, p platform, made time.Time, fs []entry) error {
	var layerTar bytes.Buffer
	if err := writeTar(&layerTar, made, fs); err != nil {
		return fmt.Errorf("write the layer: %w", err)
	}
	layer := newBlob(mediaLayer, layerTar.Bytes())
	blobs := []blob{layer}
	created := made.UTC().Format(time.RFC3339)
	var docker, index []any
	for _, v := range variants {
		config, err := marshalBlob(mediaConfig, imageJSON{
			Created: created, platform: p, Config: configOf(v, version), RootFS: rootfsJSON{"layers", []string{layer.Digest}},
			History: []historyJSON{{created, "deploy/pack", "detour " + version}},
		})
		if err != nil {
			return err
		}
		manifest, err := marshalBlob(mediaManifest, map[string]any{
			"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": []blob{layer},
		})
		if err != nil {
			return err
		}
		blobs = append(blobs, config, manifest)
		var names []string
		for _, tag := range v.tags(version) {
			names = append(names, repository+":"+tag)
			index = append(index, map[string]any{
				"mediaType": manifest.Media, "digest": manifest.Digest, "size": manifest.Size, "platform": p,
				"annotations": map[string]string{
					"io.containerd.image.name":          "docker.io/library/" + repository + ":" + tag,
					"org.opencontainers.image.ref.name": tag,
				},
			})
		}
		docker = append(docker, map[string]any{"Config": config.path(), "RepoTags": names, "Layers": []string{layer.path()}})
	}
	return writeArchive(w, made, blobs, docker, index)
}

func marshalBlob(media string, v any) (blob, error) {
	data, err := json.Marshal(v)
	return newBlob(media, data), err
}

func writeArchive(w io.Writer, made time.Time, blobs []blob, docker, index []any) error {
	slices.SortFunc(blobs, func(a, b blob) int { return bytes.Compare([]byte(a.Digest), []byte(b.Digest)) })
	entries := []entry{{name: "blobs/", mode: 0o755}, {name: "blobs/sha256/", mode: 0o755}}
	for _, b := range blobs {
		entries = append(entries, entry{name: b.path(), mode: 0o644, data: b.data})
	}
	for _, f := range []struct {
		name  string
		value any
	}{
		{"index.json", map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": index}},
		{"manifest.json", docker},
		{"oci-layout", map[string]string{"imageLayoutVersion": "1.0.0"}},
	} {
		data, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		entries = append(entries, entry{name: f.name, mode: 0o644, data: data})
	}
	return writeTar(w, made, entries)
}
