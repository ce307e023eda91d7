//go:build unix

package admit

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program writes a shell script and returns the source that runs it.
func program(t *testing.T, script string) Source {
	t.Helper()
	path := filepath.Join(t.TempDir(), "decide")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700))
	s, err := NewExec(ExecOptions{Path: path})
	must(t, err)
	return s
}

func TestExec(t *testing.T) {
	r := Request{Key: numbered(1), Addr: somewhere}
	for _, test := range []struct {
		name, script string
		want         Answer
		member, says string
	}{
		{"allow", "exit 0", Allow, "", ""},
		{"allow with a name", "echo '  the  laptop '; echo more", Allow, "the laptop", ""},
		{"refuse", "echo why; exit 1", Refuse, "", ""},
		{"neither", "echo oops >&2; echo more >&2; exit 2", Unavailable, "", "exit status 2: oops; hint"},
		{"killed", "kill -9 $$", Unavailable, "", "signal: killed"},
		{"arguments", fmt.Sprintf(`test "$*" = "%s 203.0.113.7" -a $# = 2`, numbered(1)), Allow, "", ""},
		{"environment", fmt.Sprintf(`test "$DETOUR_NODE_KEY $DETOUR_ADDR" = "%s 203.0.113.7"`, numbered(1)), Allow, "", ""},
		{"much output", "yes | head -c 300000; yes | head -c 300000 >&2", Allow, "y", ""},
		{"a grandchild with its pipes", "sleep 5 & exit 0", Allow, "", ""},
		{"a refusal with a grandchild", "sleep 5 & exit 1", Refuse, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := program(t, test.script).Decide(t.Context(), r)
			if v.Answer != test.want || v.Member.Name != test.member {
				t.Errorf("%+v, %v", v, err)
			}
			if test.want == Unavailable {
				wantHinted(t, err, test.says)
			}
		})
	}
}

func TestExecWithoutAddress(t *testing.T) {
	wantAnswerFor(t, program(t, `test $# = 2 -a -z "$2" -a -z "$DETOUR_ADDR"`), Request{Key: numbered(1)}, Allow)
}

// When time is up, all that the program has started goes with it.
func TestExecIsStopped(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	s := program(t, "echo $$ > "+pids+".new; sleep 60 & echo $! >> "+pids+".new; mv "+pids+".new "+pids+"; echo slow >&2; wait")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := s.Decide(ctx, Request{Key: numbered(1)})
		ended <- err
	}()
	var text []byte
	for deadline := time.Now().Add(4 * time.Second); time.Now().Before(deadline) && len(text) == 0; text, _ = os.ReadFile(pids) {
		wait(time.Millisecond)
	}
	cancel()
	wantHinted(t, <-ended, "was stopped")
	for _, field := range strings.Fields(string(text)) {
		var pid int
		fmt.Sscan(field, &pid)
		for deadline := time.Now().Add(4 * time.Second); alive(pid); wait(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d still runs", pid)
			}
		}
	}
	if len(strings.Fields(string(text))) != 2 {
		t.Errorf("started %q", text)
	}
}

// A relay that is killed leaves no program behind that decides.
func TestExecEndsWithTheRelay(t *testing.T) {
	if runtime.GOOS != "linux" && runtime.GOOS != "freebsd" {
		t.Skip("this system does not end a program with its parent")
	}
	fifo := filepath.Join(t.TempDir(), "pid")
	must(t, syscall.Mkfifo(fifo, 0o600))
	pipe, err := os.OpenFile(fifo, os.O_RDWR, 0) // for reading alone it would wait here
	must(t, err)
	defer pipe.Close()
	s := program(t, "echo $$ >"+fifo+"; exec sleep 60").(*execSource)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "DETOUR_TEST_EXEC="+s.path)
	must(t, child.Start())
	must(t, pipe.SetReadDeadline(time.Now().Add(10*time.Second)))
	line, err := bufio.NewReader(pipe).ReadString('\n')
	must(t, err)
	var pid int
	fmt.Sscan(line, &pid)
	if !alive(pid) {
		t.Fatalf("process %d does not run", pid)
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // killed
	for deadline := time.Now().Add(4 * time.Second); alive(pid); wait(time.Millisecond) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d still runs", pid)
		}
	}
}

// alive tells whether a process runs. One that has ended and that nobody has waited
// for does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

func TestExecBoundsHowManyRun(t *testing.T) {
	dir := t.TempDir()
	s := program(t, fmt.Sprintf("mkdir %s/$$ && ls %s | wc -l && rmdir %s/$$", dir, dir, dir))
	var all sync.WaitGroup
	for n := range 3 * execPlaces {
		all.Go(func() {
			v, err := s.Decide(t.Context(), Request{Key: numbered(n)})
			var running int
			fmt.Sscan(v.Member.Name, &running)
			if err != nil || running < 1 || running > execPlaces {
				t.Errorf("%d run at once, %v", running, err)
			}
		})
	}
	all.Wait()
}

func TestExecMissing(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	must(t, os.WriteFile(plain, nil, 0o600))
	for _, path := range []string{"", plain, plain + ".missing", t.TempDir()} {
		_, err := NewExec(ExecOptions{Path: path})
		wantHinted(t, err)
	}
	s := program(t, "exit 0")
	must(t, os.Remove(s.(*execSource).path))
	_, err := s.Decide(t.Context(), Request{Key: numbered(1)})
	wantHinted(t, err, "cannot be run")
}
