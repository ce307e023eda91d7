//go:build unix

package admit

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

// asGroup gives cmd a process group of its own, which is killed as a whole. Where the
// system can, cmd ends with the relay, also when that is killed.
func asGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
}
