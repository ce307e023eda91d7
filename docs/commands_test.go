//go:build unix

// Package docs_test reads the pages that tell people what to type. Every command
// in a block marked sh is either carried out here or listed with why it is not,
// and the two languages hold the same commands.
package docs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pages come in two languages each.
var pages = []struct{ english, chinese string }{
	{"../README.md", "../README.zh-CN.md"},
	{"deploy.md", "deploy.zh-CN.md"},
	{"map.md", "map.zh-CN.md"},
}

// How a command is tried.
type way int

const (
	unknown  way = iota
	syntax       // bash reads it and that is all
	carryOut     // it runs, and must end with status 0
	serves       // it runs until it is stopped
	dryRun       // make -n: its recipe exists, and something else runs it
)

// notHere lists what is only read, and why it cannot run here.
var notHere = map[string]string{
	"docker":     "no Docker engine; make image tries the image by chroot",
	"systemctl":  "no systemd runs here; make image has the unit verified",
	"journalctl": "no systemd runs here",
	"tailscale":  "on a node, with a tailnet; make e2e has real clients",
	"install":    "writes into the system",
	"useradd":    "changes the system's users",
	"chown":      "on the reader's own files",
	"chgrp":      "on the reader's own files",
	"ufw":        "changes the firewall",
	"openssl":    "asks a server that only the reader has",
	"curl":       "asks a relay in its usual place; detour healthcheck asks the same one here",
	"sha256sum":  "checks archives that only a release has",
}

// makeDry lists targets that are too long for this test or that it is part of.
var makeDry = map[string]string{
	"release": "two minutes; make image runs it", "build": "was run before this", "test": "CI runs it", "check": "CI runs it",
	"fuzz": "CI runs it", "interop": "CI runs it", "e2e": "CI runs it", "image": "CI runs it", "docs": "this is it",
}

// command is one command line of a page, continued lines joined.
type command struct {
	text    string
	line    int
	section int // how many headings of the second level stand before it
}

var (
	fence      = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	makes      = regexp.MustCompile(`^(exec )?(env )?([A-Z]+=\S+ )*make `)
	comment    = regexp.MustCompile(`\s+# .*$`)
	prefix     = regexp.MustCompile(`^(sudo |[A-Z][A-Z0-9_]*=\S+ )+`)
	needsRelay = regexp.MustCompile(`detour (map|healthcheck|key)\b`)
	longRuns   = regexp.MustCompile(`^(\./)?detour (serve|derper)\b`)
)

// blocks returns the text of each block of a language, and its first line.
func blocks(page, language string) (texts []string, lines []int) {
	for _, m := range fence.FindAllStringSubmatchIndex(page, -1) {
		if page[m[2]:m[3]] == language {
			texts = append(texts, page[m[4]:m[5]])
			lines = append(lines, strings.Count(page[:m[4]], "\n")+1)
		}
	}
	return texts, lines
}

func commands(page string) []command {
	var all []command
	texts, lines := blocks(page, "sh")
	for i, text := range texts {
		begun := ""
		for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
			line = strings.TrimSpace(comment.ReplaceAllString(line, ""))
			if before, more := strings.CutSuffix(line, "\\"); more {
				begun += before
				continue
			}
			if line = begun + line; line != "" && !strings.HasPrefix(line, "#") {
				at := lines[i] + n
				all = append(all, command{line, at, sections(page, at)})
			}
			begun = ""
		}
	}
	return all
}

func sections(page string, line int) int {
	n := 0
	for i, text := range strings.Split(page, "\n") {
		if i < line && strings.HasPrefix(text, "## ") {
			n++
		}
	}
	return n
}

// way says how a command is tried, going by its first word.
func (c command) way() way {
	text := prefix.ReplaceAllString(c.text, "")
	words := strings.Fields(text)
	name := strings.TrimPrefix(words[0], "./")
	switch {
	case notHere[name] != "":
		return syntax
	case longRuns.MatchString(text) || text == "make run" || strings.HasPrefix(text, "make run "):
		return serves
	case name == "make" && slices.ContainsFunc(words[1:], func(w string) bool { return makeDry[w] != "" }):
		return dryRun
	case name == "detour" || name == "tar" || name == "export":
		return carryOut
	}
	return unknown
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// No command is of a kind that nobody has thought about, and what is not carried
// out is at least something that a shell can read.
func TestEveryCommandIsKnown(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Log("there is no bash: the syntax is not checked")
	}
	for _, p := range pages {
		for _, path := range []string{p.english, p.chinese} {
			list := commands(read(t, path))
			if len(list) < 10 {
				t.Errorf("%s: only %d commands; are they in blocks marked sh?", path, len(list))
			}
			var script strings.Builder
			for _, c := range list {
				if c.way() == unknown {
					t.Errorf("%s:%d: %s\nis of no known kind; hint: make it one that runs, or list it in notHere with why it cannot", path, c.line, c.text)
				}
				script.WriteString(c.text + "\n")
			}
			if bash == "" {
				continue
			}
			cmd := exec.Command(bash, "-n")
			cmd.Stdin = strings.NewReader(script.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", path, err, out)
			}
		}
	}
}

// Who reads Chinese is told to type the same.
func TestLanguagesAgree(t *testing.T) {
	for _, p := range pages {
		var both [2][]string
		for i, path := range []string{p.english, p.chinese} {
			for _, c := range commands(read(t, path)) {
				both[i] = append(both[i], c.text)
			}
			slices.Sort(both[i]) // the order may suit the reader
		}
		for i, path := range []string{p.english, p.chinese} {
			for _, text := range both[i] {
				if !slices.Contains(both[1-i], text) {
					t.Errorf("only %s has: %s", path, text)
				}
			}
		}
		if len(both[0]) != len(both[1]) {
			t.Errorf("%s has %d commands, %s %d", p.english, len(both[0]), p.chinese, len(both[1]))
		}
	}
}

// The links between the pages, and to their sections, lead somewhere.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`)
	for _, p := range pages {
		for _, path := range []string{p.english, p.chinese} {
			text := read(t, path)
			for _, m := range link.FindAllStringSubmatch(text, -1) {
				if m[1] != "" {
					if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
						t.Errorf("%s: %v", path, err)
					}
				} else if !strings.Contains(anchors(text), "#"+m[2][1:]+"\n") {
					t.Errorf("%s has no section %s", path, m[2])
				}
			}
		}
	}
}

// anchors lists the names that headings get, one a line.
func anchors(page string) string {
	var b strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		b.WriteString("#" + strings.ReplaceAll(strings.ToLower(m[1]), " ", "-") + "\n")
	}
	return b.String()
}

// limit is for one command, on a machine that does other things too.
const limit = 30 * time.Second

// reader is somebody who types what a page says, in a directory of their own.
type reader struct {
	dir   string
	state string
	root  string        // of the repository, where make runs
	relay *exec.Cmd     // what was started last and still runs
	ended chan struct{} // closed once it has ended
	fake  *strings.Replacer
}

// The commands of all pages, one after the other, as far as they can run.
func TestCommands(t *testing.T) {
	binary := os.Getenv("DETOUR_DOCS")
	if binary == "" {
		t.Skip("SKIPPED: make docs runs this")
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		for _, path := range []string{p.english, p.chinese} {
			t.Run(path, func(t *testing.T) {
				t.Parallel()
				r := newReader(t, binary)
				defer r.stop(t)
				page := read(t, path)
				r.settle(t, page)
				count := map[way]int{}
				section := 0
				for _, c := range commands(page) {
					if c.section != section {
						section = c.section
						r.begin(t)
					}
					way := c.way()
					count[way]++
					if err := r.try(t, c, way); err != nil {
						t.Errorf("%s:%d: %s\n%v", path, c.line, c.text, err)
					}
				}
				t.Logf("%s: %d ran, %d more of make by -n, %d only read", path, count[carryOut]+count[serves], count[dryRun], count[syntax])
				for _, v := range regexp.MustCompile(`(?m)^  (\w+) +-`).FindAllStringSubmatch(r.derperHelp(t, binary), -1) {
					if strings.Contains(path, "deploy") && !strings.Contains(page, "`"+v[1]+"`") {
						t.Errorf("%s does not tell what becomes of %s", path, v[1])
					}
				}
			})
		}
	}
}

func (r *reader) derperHelp(t *testing.T, binary string) string {
	t.Helper()
	out, err := exec.Command(binary, "derper", "-h").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// stand-ins are programs that come first in the reader's PATH: a sudo that
// changes nobody, and a detour that keeps to free ports and its own files. Of a
// flag given twice the last counts.
const (
	sudoShim   = "#!/bin/sh\nexec env \"$@\"\n"
	detourShim = `#!/bin/sh
command=$1
[ $# -gt 0 ] && shift
state="--state-dir STATE"
case $command in
serve) set -- "$@" $state --listen 127.0.0.1:0 --stun-listen 127.0.0.1:0 --http-listen off --admin-listen unix:STATE/admin.sock ;;
derper) set -- "$@" -a 127.0.0.1:0 -stun-port 0 -http-port -1 -certdir DIR/derper -c DIR/derper/derper.key ;;
map | healthcheck)
	case $1 in
	check | convert | diff) ;; # of any map, and no relay
	*) set -- "$@" $state --listen :8443 --stun-listen :3478 --public-ipv4 198.51.100.7 --admin-listen unix:STATE/admin.sock ;;
	esac ;;
key) set -- "$@" $state ;;
esac
exec BINARY ${command:+"$command"} "$@"
`
)

func newReader(t *testing.T, binary string) *reader {
	t.Helper()
	dir, err := os.MkdirTemp("", "doc") // a short name, as there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{dir: dir, state: filepath.Join(dir, "state"), root: root}
	r.fake = strings.NewReplacer(
		"nodekey:…", "nodekey:"+strings.Repeat("0123456789abcdef", 4), "/etc/ssl/relay", filepath.Join(dir, "ssl"),
		"/etc/detour", dir, "/var/lib/detour", r.state, "/var/lib/derper", filepath.Join(dir, "derper"),
	)
	shim := strings.NewReplacer("STATE", r.state, "DIR", dir, "BINARY", binary).Replace(detourShim)
	r.write(t, "bin/sudo", sudoShim)
	for _, name := range []string{"bin/detour", "detour", "detour_VERSION_linux_amd64/detour"} {
		r.write(t, name, shim)
	}
	r.must(t, "tar -czf detour_VERSION_linux_amd64.tar.gz detour_VERSION_linux_amd64 && rm -r detour_VERSION_linux_amd64")
	r.must(t, `mkdir ssl && cd ssl && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=ca -keyout ca.key -out ca.crt -days 30 &&
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=r -addext subjectAltName=DNS:relay.example.com -keyout privkey.pem -out leaf.csr &&
		openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -copy_extensions copy -days 20 -out fullchain.pem`)
	return r
}

// settle writes the config files that the page shows, by the name in their first
// line.
func (r *reader) settle(t *testing.T, page string) {
	t.Helper()
	texts, _ := blocks(page, "yaml")
	for _, text := range texts {
		if m := regexp.MustCompile(`^# (\S+\.yaml)\n`).FindStringSubmatch(text); m != nil {
			r.write(t, m[1], r.fake.Replace(text))
		}
	}
}

func (r *reader) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (r *reader) must(t *testing.T, text string) {
	t.Helper()
	if out, err := r.bash(t.Context(), text).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", text, err, out)
	}
}

// bash carries out text in the reader's directory, or make's in the repository.
func (r *reader) bash(ctx context.Context, text string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", text)
	cmd.Dir = r.dir
	if makes.MatchString(text) {
		cmd.Dir = r.root
	}
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(r.dir, "bin")+":"+os.Getenv("PATH"),
		"DETOUR_DOCS=", "DETOUR_LISTEN=127.0.0.1:0", "DETOUR_STUN_LISTEN=127.0.0.1:0", "DETOUR_HTTP_LISTEN=off", "DETOUR_STATE_DIR="+r.state)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

func (r *reader) try(t *testing.T, c command, way way) error {
	t.Helper()
	text := r.fake.Replace(c.text)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	switch way {
	case dryRun:
		text = strings.Replace(text, "make ", "make -n ", 1)
	case serves:
		return r.serve(t, text)
	case carryOut:
		if needsRelay.MatchString(text) && r.relay == nil {
			if err := r.serve(t, "detour serve"); err != nil { // as the page tells elsewhere
				return err
			}
		}
	case unknown, syntax:
		return nil
	}
	if out, err := r.bash(ctx, text).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// serve starts a relay in the place of the one before, and leaves it running for
// the commands that come after it.
func (r *reader) serve(t *testing.T, text string) error {
	t.Helper()
	r.stop(t)
	if strings.Contains(text, "make run") {
		// The binary is there; ports are free ones.
		text = strings.Replace(text, "make run", "make -o build run", 1)
		text = regexp.MustCompile(`(listen) :\d+`).ReplaceAllString(text, "$1 127.0.0.1:0")
		text = strings.ReplaceAll(text, "/tmp/relay", r.state)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	cmd := r.bash(ctx, "exec env "+text)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.CloseWithError(errors.Join(io.EOF, cmd.Wait()))
	}()
	var said strings.Builder
	part := make([]byte, 4096)
	for !strings.Contains(said.String(), "msg=serving ") {
		n, err := out.Read(part)
		said.Write(part[:n])
		if err != nil {
			return fmt.Errorf("it does not serve: %s", said.String())
		}
	}
	go io.Copy(io.Discard, out)
	r.relay, r.ended = cmd, ended
	return nil
}

// begin forgets the relay of the section before, as each stands alone.
func (r *reader) begin(t *testing.T) {
	t.Helper()
	r.stop(t)
	for _, dir := range []string{r.state, filepath.Join(r.dir, "derper")} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// stop ends the relay that runs, as a service manager does.
func (r *reader) stop(t *testing.T) {
	t.Helper()
	if r.relay == nil {
		return
	}
	if err := syscall.Kill(-r.relay.Process.Pid, syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	<-r.ended
	r.relay = nil
}
