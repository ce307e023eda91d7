package admit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// Bounds of a program that decides.
const (
	execPlaces = 8                      // how many run at once
	execOutput = 4 << 10                // octets that are kept of each of its outputs
	execLinger = 500 * time.Millisecond // how long what it left behind may hold its outputs
)

// ExecOptions configure a source that runs a program.
type ExecOptions struct {
	Name string // for logs and statistics; empty: "exec"
	Path string // of the program; without a slash it is looked for in PATH
}

// execSource runs a program for each question.
type execSource struct {
	name   string
	path   string
	places chan struct{} // one for each that runs
}

// NewExec returns a source that runs the program at o.Path with two arguments: the
// node key as nodekey:… and the address, which may be empty. It finds them in
// DETOUR_NODE_KEY and DETOUR_ADDR as well. Exit status 0 allows, and the first line
// of its output is the peer's name; 1 refuses; with anything else it cannot tell, and
// the first line of its errors says why. It must exist and be executable.
func NewExec(o ExecOptions) (Source, error) {
	if o.Name == "" {
		o.Name = "exec"
	}
	path, err := exec.LookPath(o.Path)
	if err != nil {
		return nil, fmt.Errorf("cannot run %v; hint: name an executable file by its absolute path", err)
	}
	return &execSource{name: o.Name, path: path, places: make(chan struct{}, execPlaces)}, nil
}

// Name returns the name from the options.
func (s *execSource) Name() string { return s.name }

// Decide runs the program, for five seconds at most. On Unix all that it has
// started in its process group is killed with it when time is up.
func (s *execSource) Decide(ctx context.Context, r Request) (Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	case <-ctx.Done():
		return s.unavailable("waits for %d others that run", execPlaces)
	}
	addr := ""
	if r.Addr.IsValid() {
		addr = r.Addr.String()
	}
	cmd := exec.CommandContext(ctx, s.path, r.Key.String(), addr)
	cmd.Env = append(os.Environ(), "DETOUR_NODE_KEY="+r.Key.String(), "DETOUR_ADDR="+addr)
	var out, errs head
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = execLinger
	asGroup(cmd)
	// A program that is to end with the relay ends with the thread that has started it:
	// this one lasts for as long as the program.
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	state := cmd.ProcessState
	switch {
	case state == nil:
		return s.unavailable("cannot be run: %v", err)
	case state.Exited() && state.ExitCode() == 0 && (err == nil || errors.Is(err, exec.ErrWaitDelay)):
		return Verdict{Answer: Allow, Member: Member{Name: firstLine(out.String(), nameLimit)}}, nil
	case state.Exited() && state.ExitCode() == 1 && ctx.Err() == nil:
		return Verdict{}, nil
	case ctx.Err() != nil:
		return s.unavailable("was stopped: no answer in time%s", colon(errs.String()))
	}
	return s.unavailable("ended with %s%s", state, colon(errs.String()))
}

func (s *execSource) unavailable(format string, args ...any) (Verdict, error) {
	return Verdict{Answer: Unavailable}, fmt.Errorf("%s %s; hint: run it by hand with a node key and an address: it must end at once, with 0 to allow and 1 to refuse",
		s.path, fmt.Sprintf(format, args...))
}

// colon returns ": " and the first line of text, or "".
func colon(text string) string {
	if text = firstLine(text, quoted); text == "" {
		return ""
	}
	return ": " + text
}

// head keeps the beginning of what is written to it, and takes the rest.
type head struct{ buf bytes.Buffer }

func (h *head) Write(b []byte) (int, error) {
	h.buf.Write(b[:min(len(b), execOutput-h.buf.Len())])
	return len(b), nil
}

func (h *head) String() string { return h.buf.String() }
