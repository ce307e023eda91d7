package bench

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"time"
)

// Fields of /proc/PID/stat, counted from the one after the command's name.
// Source: Linux manual page proc_pid_stat(5).
const (
	statUserTime   = 11
	statSystemTime = 12
	statResident   = 21 // pages
	tick           = time.Second / 100
)

// readUsage asks the kernel about a process. CPU time comes in ticks of 10 ms.
func readUsage(pid int) (usage, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return usage{}, err
	}
	u, err := parseStat(text)
	u.at = time.Now()
	return u, err
}

func parseStat(text []byte) (usage, error) {
	// The name is in parentheses and may hold anything, those included.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) <= statResident {
		return usage{}, fmt.Errorf("its stat file has only %d fields", len(fields))
	}
	var n [3]int64
	for i, at := range []int{statUserTime, statSystemTime, statResident} {
		v, err := strconv.ParseInt(string(fields[at]), 10, 64)
		if err != nil {
			return usage{}, fmt.Errorf("field %d of its stat file: %w", at, err)
		}
		n[i] = v
	}
	return usage{cpu: time.Duration(n[0]+n[1]) * tick, rss: n[2] * int64(os.Getpagesize())}, nil
}
