package privilege

import (
	"os/user"
	"strings"
	"testing"
)

func TestLookupNumbers(t *testing.T) {
	u, err := Lookup("65532:65533")
	if err != nil || u.UID != 65532 || u.GID != 65533 || u.Groups != nil || u.String() != "65532:65533" {
		t.Errorf("got %+v, %v", u, err)
	}
}

func TestLookupErrors(t *testing.T) {
	for text, want := range map[string]string{
		"no-such-user-here":   `no user "no-such-user-here"`,
		"2147483001":          `no user "2147483001"`, // a number alone must bring its group from somewhere
		"65532:no-such-group": `no group "no-such-group"`,
		"0:1":                 "is root",
		"99999999999:1":       "no user",
	} {
		_, err := Lookup(text)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "; hint: ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Whoever runs this is known by name and by number, unless it is root.
func TestLookupNames(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skip(err)
	}
	if me.Uid == "0" {
		me, err = user.Lookup("nobody")
	}
	if err != nil {
		t.Skip("no user to look up: ", err)
	}
	for _, text := range []string{me.Username, me.Uid, me.Username + ":" + me.Gid} {
		u, err := Lookup(text)
		if err != nil || u.String() != me.Uid+":"+me.Gid {
			t.Errorf("%s: got %v, %v", text, u, err)
		}
	}
}
