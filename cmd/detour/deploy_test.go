package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/detour-relay/detour/internal/config"
)

// What deploy/ tells people to install is what this binary understands.
func TestDeployedSettings(t *testing.T) {
	text := read(t, "../../deploy/detour.yaml")
	examples := regexp.MustCompile(`(?m)^#(\S|  - )`).ReplaceAllString(text, "$1")
	if examples == text {
		t.Fatal("there are no examples in it")
	}
	for _, text := range []string{text, examples} {
		file := filepath.Join(t.TempDir(), "detour.yaml")
		write(t, file, text)
		detour(t, "config", "check", file).want(t, exitOK, "state directory: /var/lib/detour", "")
	}
	unit := read(t, "../../deploy/detour.service")
	if !strings.Contains(unit, "\nExecStart=/usr/local/bin/detour serve --config /etc/detour/detour.yaml\n") {
		t.Error("the unit runs something else")
	}
}

func TestComposeFiles(t *testing.T) {
	known := map[string]bool{}
	for _, s := range config.Settings() {
		known[s.EnvName()] = true
	}
	files, err := filepath.Glob("../../deploy/compose*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var compose struct {
			Services map[string]struct {
				Image       string
				Environment map[string]string
				CapAdd      []string `yaml:"cap_add"`
				Volumes     []string
			}
			Volumes map[string]any
		}
		if err := yaml.Unmarshal(text, &compose); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		s := compose.Services["detour"]
		if s.Image != "detour:${DETOUR_VERSION:-latest}" || len(s.Volumes) != 1 || s.Volumes[0] != "state:/var/lib/detour" {
			t.Errorf("%s: image %q, volumes %q", file, s.Image, s.Volumes)
		}
		// make image runs the image with these.
		if got := strings.Join(s.CapAdd, " "); got != "NET_BIND_SERVICE DAC_OVERRIDE CHOWN SETUID SETGID" {
			t.Errorf("%s: capabilities %s", file, got)
		}
		for name := range s.Environment {
			if !known[name] {
				t.Errorf("%s sets %s, which is no setting", file, name)
			}
		}
	}
}
