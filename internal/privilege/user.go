// Package privilege lets a relay that root started go on as another user: it
// hands over what the relay keeps, gives up root for good, and tells what the
// new user cannot reach. Linux only; elsewhere every attempt is an error.
package privilege

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// User is whom a process can become.
type User struct {
	UID, GID int   // never 0 for UID
	Groups   []int // further groups; of a bare UID:GID none
}

// String returns UID:GID, as chown takes it.
func (u User) String() string { return fmt.Sprintf("%d:%d", u.UID, u.GID) }

// Lookup finds USER, USER:GROUP or UID:GID. Names are looked up in this
// machine's user database; two numbers need not be in it. Errors end in what
// the operator can do.
func Lookup(text string) (User, error) {
	name, group, hasGroup := strings.Cut(text, ":")
	u, err := lookupUser(name, hasGroup)
	if err != nil {
		return User{}, err
	}
	if hasGroup {
		if u.GID, err = lookupGroup(group); err != nil {
			return User{}, err
		}
	}
	if u.UID == 0 {
		return User{}, fmt.Errorf("run_as: %q is root; hint: name another user, or leave run_as empty to stay root", text)
	}
	return u, nil
}

// lookupUser wants a number to be a known user only where its group must come
// from there.
func lookupUser(name string, hasGroup bool) (User, error) {
	uid, err := strconv.ParseUint(name, 10, 31)
	number := err == nil
	if number && hasGroup {
		return User{UID: int(uid)}, nil
	}
	find := user.Lookup
	if number {
		find = user.LookupId
	}
	found, err := find(name)
	if err != nil {
		return User{}, fmt.Errorf("run_as: no user %q on this machine; hint: make it (useradd --system %s), or give numbers as UID:GID", name, name)
	}
	ids, err := found.GroupIds()
	if err != nil {
		return User{}, fmt.Errorf("run_as: look up the groups of %q: %w; hint: give numbers as UID:GID", name, err)
	}
	return numbers(found, ids)
}

func numbers(found *user.User, ids []string) (u User, err error) {
	if u.UID, err = strconv.Atoi(found.Uid); err != nil {
		return User{}, fmt.Errorf("run_as: user %q has no numeric id: %w", found.Username, err)
	}
	if u.GID, err = strconv.Atoi(found.Gid); err != nil {
		return User{}, fmt.Errorf("run_as: user %q has no numeric group: %w", found.Username, err)
	}
	for _, id := range ids {
		n, err := strconv.Atoi(id)
		if err != nil {
			return User{}, fmt.Errorf("run_as: user %q has group %q: %w", found.Username, id, err)
		}
		if n != u.GID {
			u.Groups = append(u.Groups, n)
		}
	}
	return u, nil
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	found, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("run_as: no group %q on this machine; hint: make it (groupadd --system %s), or give its number", name, name)
	}
	return strconv.Atoi(found.Gid)
}
