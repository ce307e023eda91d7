package admit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/detour-relay/detour/internal/key"
)

const (
	bookVersion  = "1"
	bookMode     = 0o600 // it tells who is a member
	bookLockWait = time.Second
	// answersLast is how old a kept answer may be that is still loaded.
	answersLast = 400 * 24 * time.Hour
	// answersOutlive is how long answers of a source are kept that is not asked any more.
	answersOutlive = 90 * 24 * time.Hour
	// A file is written anew when it is larger than this and mostly empty.
	compactAbove = 4 << 20
)

// The buckets of the file. Answers are in one bucket each below answers, by the
// name of their source.
var (
	bucketMeta    = []byte("meta")
	bucketRules   = []byte("rules")
	bucketBans    = []byte("bans")
	bucketAnswers = []byte("answers")
	keyVersion    = []byte("version")
)

// bookFile is the file of a Book: every change is one transaction of bbolt, which
// is whole or not there, whenever the process ends.
type bookFile struct{ db *bolt.DB }

const hintBook = "look at the file and its directory: space, and the rights of the user that runs the relay"

// openBookFile opens path. What is no book is moved aside.
func openBookFile(path string, logger *slog.Logger, now time.Time) (*bookFile, error) {
	db, err := openBolt(path)
	if err == nil {
		return &bookFile{db}, nil
	}
	var other *otherVersion
	switch {
	case errors.As(err, &other):
		return nil, fmt.Errorf("open %s: %w; hint: it is from another version of Detour: run that one, or move the file away, which forgets whom you have allowed", path, err)
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: another process has it open; hint: is another relay running with this state directory?", path)
	case !errors.As(err, new(*damage)): // no descriptor, no room, no right: the file may be whole
		return nil, fmt.Errorf("open %s: %w; hint: %s", path, err, hintBook)
	}
	aside := fmt.Sprintf("%s.damaged-%s", path, now.UTC().Format("20060102T150405"))
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("move the damaged %s aside: %w; hint: %s", path, err, hintBook)
	}
	logger.Error("the file of whom you have allowed, denied and banned was damaged and is moved aside; the relay begins with an empty one; "+
		"hint: put a backup in its place, or allow your nodes again: detour admit pending lists them", "file", path, "aside", aside, "err", err)
	if db, err = openBolt(path); err != nil {
		return nil, fmt.Errorf("open %s: %w; hint: %s", path, err, hintBook)
	}
	return &bookFile{db}, nil
}

// otherVersion is the version of a file that this program does not know.
type otherVersion struct{ version string }

func (o *otherVersion) Error() string { return fmt.Sprintf("it has version %q", o.version) }

// damage is why a file is no book that can be read.
type damage struct{ cause any }

func (d *damage) Error() string {
	const longest = 200 // bytes: bbolt shows whole pages
	text := fmt.Sprint(d.cause)
	return "damaged: " + strings.ToValidUTF8(text[:min(len(text), longest)], "")
}

// openBolt opens and checks a file. bbolt panics over some kinds of damage, and
// reads beyond the end of a file that was cut off, or of its memory.
func openBolt(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			if db != nil {
				closeQuietly(db)
			}
			db, err = nil, &damage{cause}
		}
	}()
	if db, err = bolt.Open(path, bookMode, &bolt.Options{Timeout: bookLockWait, FreelistType: bolt.FreelistMapType}); err != nil {
		return nil, unreadable(path, err)
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&^bookMode != 0 {
		_ = os.Chmod(path, bookMode) // a backup put back with other rights; what is another user's stays as it is
	}
	if err = prepare(db); err != nil {
		closeQuietly(db)
		return nil, err
	}
	return compacted(db, path)
}

// unreadable tells what bbolt says of a file that is none of its own from what the
// system says.
func unreadable(path string, err error) error {
	const least = 8 << 10 // bytes: two pages; bbolt has no error of its own for less
	info, statErr := os.Stat(path)
	short := statErr == nil && info.Mode().IsRegular() && info.Size() > 0 && info.Size() < least
	if short || errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		return &damage{err}
	}
	return err
}

func closeQuietly(db *bolt.DB) {
	defer func() { _ = recover() }() // it is damaged, and nobody uses it any more
	_ = db.Close()
}

// prepare makes the buckets, and reads everything once, to find damage now.
func prepare(db *bolt.DB) error {
	err := db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		switch version := string(meta.Get(keyVersion)); version {
		case bookVersion:
		case "":
			if err := meta.Put(keyVersion, []byte(bookVersion)); err != nil {
				return err
			}
		default:
			return &otherVersion{version}
		}
		for _, name := range [][]byte{bucketRules, bucketBans, bucketAnswers} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return db.View(func(tx *bolt.Tx) error {
		// Here first, where a fault is a panic: Check reads in a goroutine of its own.
		if err := tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return readAll(b) }); err != nil {
			return &damage{err}
		}
		for fault := range tx.Check() {
			return &damage{fault}
		}
		return nil
	})
}

// readAll reads what is in a bucket and below it.
func readAll(b *bolt.Bucket) error {
	return b.ForEach(func(k, v []byte) error {
		if v == nil {
			if inner := b.Bucket(k); inner != nil {
				return readAll(inner)
			}
		}
		_ = crc32.Update(crc32.ChecksumIEEE(k), crc32.IEEETable, v)
		return nil
	})
}

// compacted gives back the room of what was deleted.
func compacted(db *bolt.DB, path string) (*bolt.DB, error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() < compactAbove || int64(db.Stats().FreePageN+db.Stats().PendingPageN)*int64(os.Getpagesize()) < info.Size()/2 {
		return db, nil
	}
	staged := path + ".compact"
	if err := os.Remove(staged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return db, nil // it is only about room
	}
	small, err := bolt.Open(staged, bookMode, nil)
	if err != nil {
		return db, nil
	}
	err = bolt.Compact(small, db, 1<<20)
	if err = errors.Join(err, small.Close()); err != nil {
		_ = os.Remove(staged)
		return db, nil
	}
	closeQuietly(db)
	if err := os.Rename(staged, path); err != nil {
		return nil, err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		_ = dir.Sync() // on systems that cannot, the rename lasts all the same
		_ = dir.Close()
	}
	return bolt.Open(path, bookMode, &bolt.Options{Timeout: bookLockWait, FreelistType: bolt.FreelistMapType})
}

func (f *bookFile) close() error { return f.db.Close() }

// load reads rules and bans. What cannot be read is left out and counted: the file
// is whole, so it is from a program that wrote something else there.
func (f *bookFile) load(rule func(Rule), ban func(Ban)) (odd int, err error) {
	err = f.db.View(func(tx *bolt.Tx) error {
		err := tx.Bucket(bucketRules).ForEach(func(_, v []byte) error {
			var r Rule
			if json.Unmarshal(v, &r) != nil || r.Key.IsZero() {
				odd++
				return nil
			}
			rule(r)
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketBans).ForEach(func(_, v []byte) error {
			var b Ban
			if json.Unmarshal(v, &b) != nil || b.Key.IsZero() && !b.Net.IsValid() {
				odd++
				return nil
			}
			ban(b)
			return nil
		})
	})
	return odd, err
}

func (f *bookFile) update(change func(tx *bolt.Tx) error) error {
	if err := f.db.Update(change); err != nil {
		return fmt.Errorf("write %s: %w; hint: %s", f.db.Path(), err, hintBook)
	}
	return nil
}

func put(bucket *bolt.Bucket, k []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return bucket.Put(k, data)
}

func (f *bookFile) putRule(r Rule) error {
	return f.update(func(tx *bolt.Tx) error { return put(tx.Bucket(bucketRules), r.Key[:], r) })
}

func (f *bookFile) removeRule(k key.Public) error {
	return f.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketRules).Delete(k[:]) })
}

func (f *bookFile) putBan(b Ban) error {
	return f.update(func(tx *bolt.Tx) error { return put(tx.Bucket(bucketBans), []byte(b.Target()), b) })
}

func (f *bookFile) removeBan(b Ban) error {
	return f.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketBans).Delete([]byte(b.Target())) })
}

// ForgetSources removes what was kept of sources that are not among used any more
// and have said nothing for answersOutlive. One that comes back in time finds its
// answers again.
func (b *Book) ForgetSources(used []string) error {
	var gone [][]byte
	err := b.file.db.View(func(tx *bolt.Tx) error {
		answers := tx.Bucket(bucketAnswers)
		return answers.ForEachBucket(func(name []byte) error {
			if !slices.Contains(used, string(name)) && b.now().Sub(newest(answers.Bucket(name))) > answersOutlive {
				gone = append(gone, bytes.Clone(name))
			}
			return nil
		})
	})
	if err != nil || len(gone) == 0 {
		return err
	}
	return b.file.update(func(tx *bolt.Tx) error {
		for _, name := range gone {
			if err := tx.Bucket(bucketAnswers).DeleteBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// newest is when the last answer in a bucket was given; zero: there is none.
func newest(bucket *bolt.Bucket) (at time.Time) {
	_ = bucket.ForEach(func(_, v []byte) error { // the function does not fail
		var s Stored
		if json.Unmarshal(v, &s) == nil && s.At.After(at) {
			at = s.At
		}
		return nil
	})
	return at
}

// Memory returns where the Allows of a source are kept, by its name.
func (b *Book) Memory(source string) Memory { return memory{b.file, []byte(source)} }

type memory struct {
	file   *bookFile
	source []byte
}

// Load returns what was saved, entries that are over a year old left out.
func (m memory) Load() (map[key.Public]Stored, error) {
	all := make(map[key.Public]Stored)
	err := m.file.db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(bucketAnswers).Bucket(m.source)
		if bucket == nil {
			return nil
		}
		return bucket.ForEach(func(k, v []byte) error {
			var s Stored
			if len(k) == key.Size && json.Unmarshal(v, &s) == nil && time.Since(s.At) < answersLast {
				all[key.Public(k)] = s
			}
			return nil
		})
	})
	return all, err
}

// Save is one transaction.
func (m memory) Save(allowed map[key.Public]Stored, gone []key.Public) error {
	return m.file.update(func(tx *bolt.Tx) error {
		bucket, err := tx.Bucket(bucketAnswers).CreateBucketIfNotExists(m.source)
		if err != nil {
			return err
		}
		for k, s := range allowed {
			if err := put(bucket, k[:], s); err != nil {
				return err
			}
		}
		for _, k := range gone {
			if err := bucket.Delete(k[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
