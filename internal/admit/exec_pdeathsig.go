//go:build linux || freebsd

package admit

import "syscall"

// endWithParent has the system kill the program when the thread ends that has started
// it. Who starts it keeps that thread until the program has ended.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
