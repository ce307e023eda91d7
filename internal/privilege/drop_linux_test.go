package privilege

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// child names what this test binary does in place of testing: only a process
// that ends can become another user.
const child = "PRIVILEGE_TEST_CHILD"

func TestMain(m *testing.M) {
	if todo := os.Getenv(child); todo != "" {
		os.Exit(beChild(todo))
	}
	os.Exit(m.Run())
}

func beChild(todo string) int {
	fail := func(err error) int {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	var e *Estate
	u := User{UID: 65532, GID: 65532, Groups: []int{65531}}
	if dir, ok := strings.CutPrefix(todo, "estate:"); ok {
		e = Survey(Plan{
			StateDir: filepath.Join(dir, "state"), Again: []string{filepath.Join(dir, "link")},
			Fills:    []string{filepath.Join(dir, "filled"), filepath.Join(dir, "none")},
			Replaces: []string{filepath.Join(dir, "derp.yaml"), filepath.Join(dir, "state", "derp.yaml")},
		})
		if err := e.Give(u); err != nil {
			return fail(err)
		}
	}
	holdThreads()
	if err := Drop(u); err != nil {
		return fail(err)
	}
	if e != nil {
		for _, o := range e.Unreachable() {
			os.Stdout.WriteString(o.Path + " at " + o.At + "\n")
		}
		return 0
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		return fail(err)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			return fail(err)
		}
		os.Stdout.Write(text)
	}
	return 0
}

// holdThreads makes sure that there are several.
func holdThreads() {
	const enough = 4
	var ready sync.WaitGroup
	for range enough {
		ready.Add(1)
		go func() {
			var pipe [2]int
			if err := syscall.Pipe(pipe[:]); err != nil {
				panic(err)
			}
			ready.Done()
			syscall.Read(pipe[0], make([]byte, 1)) // for as long as the process lives
		}()
	}
	ready.Wait()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: giving up root needs root to begin with; run the tests once as root")
	}
}

// run is this test binary as a child, with the given system attributes.
func run(t *testing.T, todo string, attr *syscall.SysProcAttr) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs strings.Builder
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), child+"="+todo)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &out, &errs, attr
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// Every thread has the user, the groups and no capability.
func TestDrop(t *testing.T) {
	needRoot(t)
	out, stderr, err := run(t, "drop", nil)
	if err != nil {
		t.Fatal(err, stderr)
	}
	threads := strings.Count(out, "\nUid:")
	if threads < 4 {
		t.Fatalf("only %d threads:\n%s", threads, out)
	}
	for _, want := range []string{
		`Uid:\t65532\t65532\t65532\t65532`, `Gid:\t65532\t65532\t65532\t65532`, `Groups:\t65531 *`,
		`CapPrm:\t0+`, `CapEff:\t0+`, `CapAmb:\t0+`,
	} {
		if got := len(regexp.MustCompile(`(?m)^`+want+`$`).FindAllString(out, -1)); got != threads {
			t.Errorf("%s holds for %d of %d threads:\n%s", want, got, threads, out)
		}
	}
}

// One that is not allowed to change ends with what to do, whatever it is then.
func TestDropThatFails(t *testing.T) {
	needRoot(t)
	_, stderr, err := run(t, "drop", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65530, Gid: 65530}})
	if err == nil || !strings.Contains(stderr, "run_as: change the further groups") || !strings.Contains(stderr, "; hint: ") {
		t.Errorf("%v, %s", err, stderr)
	}
	if err := Drop(User{}); err == nil {
		t.Error("became root")
	}
}

// What root keeps in the state directory changes hands; what a link leads to, a
// file with a second name and others' files do not.
func TestEstate(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // made for root alone
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"state/server.key", "state/sub/file", "state/others", "twice", "outside", "locked/key", "filled/sub/account"} {
		if err := os.MkdirAll(filepath.Dir(at(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Chown(at("state/others"), 4711, 4711), os.Link(at("twice"), at("state/twice")),
		os.Symlink(at("outside"), at("state/leads-out")), os.Symlink(at("locked/key"), at("link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, err := run(t, "estate:"+dir, nil)
	if err != nil {
		t.Fatal(err, stderr)
	}
	for name, want := range map[string]uint32{
		"state": 65532, "state/server.key": 65532, "state/sub": 65532, "state/sub/file": 65532, "state/others": 4711,
		"twice": 0, "outside": 0, "state/leads-out": 65532, "locked": 0, "locked/key": 0,
	} {
		info, err := os.Lstat(at(name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Sys().(*syscall.Stat_t).Uid; got != want {
			t.Errorf("%s belongs to %s, want %d", name, strconv.Itoa(int(got)), want)
		}
	}
	if want := at("filled") + " at " + at("filled") + "\n" + at("link") + " at "; !strings.HasPrefix(out, want) && !strings.Contains(out, "\n"+want) {
		t.Errorf("what a relay fills is not reported: %q, want %q", out, want)
	}
	if want := at("derp.yaml") + " at " + dir + "\n"; !strings.Contains(out, want) || strings.Contains(out, "state/derp.yaml") {
		t.Errorf("what a relay replaces is not reported: %q, want %q", out, want)
	}
	if !strings.HasSuffix(strings.TrimSpace(out), at("locked/key")+" at "+at("locked")) {
		t.Errorf("out of reach: %q", out)
	}
}

// A socket changes hands with its address in use; what lies in its place does not.
func TestSocketsChangeHands(t *testing.T) {
	dir := t.TempDir()
	socket, file, missing := filepath.Join(dir, "s"), filepath.Join(dir, "file"), filepath.Join(dir, "none")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link")
	for _, err := range []error{os.WriteFile(file, nil, 0o600), os.Symlink(socket, link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	e := Survey(Plan{StateDir: dir, Shared: true, Makes: []string{socket, file, missing, link}})
	var given []string
	e.chown = func(path string, uid, gid int) error {
		given = append(given, path+" "+User{UID: uid, GID: gid}.String())
		return nil
	}
	if err := e.Give(User{UID: 4711, GID: 4712}); err != nil {
		t.Fatal(err)
	}
	if want := []string{socket + " 4711:4712"}; !slices.Equal(given, want) {
		t.Errorf("given away: %q, want %q", given, want)
	}
	e.chown = func(string, int, int) error { return errors.ErrUnsupported }
	if err := e.Give(User{UID: 4711}); err == nil || !strings.Contains(err.Error(), "; hint: chown") {
		t.Errorf("an owner that cannot be set: %v", err)
	}
}

// What a relay fills is looked at down to the last file.
func TestBlockedWithin(t *testing.T) {
	dir := t.TempDir()
	if at, ok := blockedWithin(filepath.Join(dir, "none")); ok {
		t.Errorf("what is not there blocks at %s", at)
	}
	if err := os.Symlink("/dev/null/x", filepath.Join(dir, "leads-nowhere")); err != nil {
		t.Fatal(err)
	}
	if at, ok := blockedWithin(dir); ok {
		t.Errorf("blocked at %s", at)
	}
	file := filepath.Join(dir, "sub", "file")
	for _, err := range []error{os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if at, ok := blockedWithin(dir); os.Geteuid() != 0 && at != file {
		t.Errorf("blocked at %q, %v, want %s", at, ok, file)
	}
}

// derper's key may lie in a directory that is not the relay's.
func TestSharedDirectory(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "derper.key")
	if e := Survey(Plan{StateDir: dir, Shared: true, Keeps: []string{key}}); !e.whole {
		t.Error("an empty directory is not taken for the relay's")
	}
	if err := os.WriteFile(filepath.Join(dir, "passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e := Survey(Plan{StateDir: dir, Shared: true, Keeps: []string{key}}); e.whole {
		t.Error("a directory with strange files would change hands")
	}
	if e := Survey(Plan{StateDir: filepath.Join(dir, "new"), Shared: true, Keeps: []string{key}}); !e.whole || len(e.missing) != 2 {
		t.Errorf("a directory that is made would not change hands: %+v", e)
	}
}
