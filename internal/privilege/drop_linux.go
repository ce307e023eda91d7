package privilege

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Drop makes every thread of this process u, for good, and proves it. After an
// error the process may be something in between: it must end.
func Drop(u User) error {
	if u.UID <= 0 || u.GID < 0 {
		return fmt.Errorf("run_as: %s is nobody to become", u)
	}
	// Groups first: who is no longer root may not change them. Package syscall's
	// forms, unlike x/sys's, act on all threads.
	steps := []struct {
		what string
		do   func() error
	}{
		{"further groups", func() error { return syscall.Setgroups(u.Groups) }},
		{"group", func() error { return syscall.Setresgid(u.GID, u.GID, u.GID) }},
		{"user", func() error { return syscall.Setresuid(u.UID, u.UID, u.UID) }},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("run_as: change the %s of this process to %s: %w; hint: %s", s.what, u, err,
				"let it keep CAP_SETUID and CAP_SETGID (docker: --cap-add SETUID --cap-add SETGID), or start it as that user "+
					"(docker: the nonroot tag, or --user), or stay root with an empty run_as")
		}
	}
	if err := prove(u); err != nil {
		return fmt.Errorf("run_as: this process did not become %s: %w; hint: start it as that user instead", u, err)
	}
	return nil
}

// prove reports what of root is left: by an id, a group or a capability, or by
// a way back.
func prove(u User) error {
	if r, e, s := unix.Getresuid(); r != u.UID || e != u.UID || s != u.UID {
		return fmt.Errorf("its user ids are %d, %d and %d", r, e, s)
	}
	if r, e, s := unix.Getresgid(); r != u.GID || e != u.GID || s != u.GID {
		return fmt.Errorf("its group ids are %d, %d and %d", r, e, s)
	}
	groups, err := unix.Getgroups()
	if err != nil {
		return err
	}
	if want := slices.Clone(u.Groups); !equalSets(groups, want) {
		return fmt.Errorf("its groups are %v and not %v", groups, want)
	}
	var caps [2]unix.CapUserData // two words of 32 capabilities
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&head, &caps[0]); err != nil {
		return fmt.Errorf("ask for its capabilities: %w", err)
	}
	for _, c := range caps {
		if c.Effective|c.Permitted != 0 {
			return errors.New("it has kept capabilities")
		}
	}
	if syscall.Setuid(0) == nil {
		return errors.New("it can become root again")
	}
	return nil
}

func equalSets(a, b []int) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
