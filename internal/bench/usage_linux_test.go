package bench

import (
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseStat(t *testing.T) {
	const text = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 123 77 0 0 20 0 5 0 1000 900000000 2500 18446744073709551615"
	got, err := parseStat([]byte(text))
	if want := (usage{cpu: 2 * time.Second, rss: 2500 * int64(os.Getpagesize())}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "42 (a) S 1", "42 (a) S 1 42 42 0 -1 4194560 100 0 0 0 x 77 0 0 20 0 5 0 1000 900000000 2500 1"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := new(fakeRelay).target(t)
		target.ServerPID = os.Getpid() // the fake's process, too
		start := time.Now()
		got, err := Idle(t.Context(), target, 40, time.Second)
		if err != nil || got.Peers != 40 || got.Lost != 0 || !got.Complete || got.Server.RSSAfter == 0 || time.Since(start) < time.Second {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestIdlePeersThatAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		relay := &fakeRelay{until: -1}
		target := relay.target(t)
		target.ServerPID = os.Getpid()
		got, err := Idle(t.Context(), target, 20, time.Second)
		if err != nil || got.Lost != 20 {
			t.Errorf("%+v, %v", got, err)
		}
	})
}
