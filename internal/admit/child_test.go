package admit

import (
	"context"
	"fmt"
	"os"
	"time"
)

// keepAsking is the child of TestExecEndsWithTheRelay: it asks one program, which does
// not end by itself.
func keepAsking() {
	path := os.Getenv("DETOUR_TEST_EXEC")
	if path == "" {
		return
	}
	s, err := NewExec(ExecOptions{Path: path})
	if err == nil {
		_, err = s.Decide(context.Background(), Request{Key: numbered(1)})
	}
	fmt.Println("error", err)
	os.Exit(1)
}

// wait passes time while another process works, which tells nobody.
func wait(d time.Duration) { <-time.After(d) }
