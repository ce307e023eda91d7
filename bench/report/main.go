// Command report turns what bench/compare.sh measured into docs/benchmarks.md
// and the plots under docs/plots. It is a module of its own, so that the
// plotting library is none of the relay's dependencies.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

func run(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("report", flag.ContinueOnError)
	flags.SetOutput(stderr)
	docs := flags.String("docs", "docs", "directory of benchmarks.md and plots/")
	cross := flags.String("cross", "", "results of the other generator, to compare the two; may be missing")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() != 1 {
		fmt.Fprintln(stderr, "report: needs one file of results; hint: make bench writes one and runs this")
		return 2
	}
	if err := write(flags.Arg(0), *cross, *docs); err != nil {
		fmt.Fprintf(stderr, "report: %v\n", err)
		return 1
	}
	return 0
}

// write reads the results and writes all files.
func write(results, cross, docs string) error {
	d, err := load(results)
	if err != nil {
		return err
	}
	other, err := load(cross)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case other.meta.Generator == d.meta.Generator:
		other = nil
	}
	files := map[string][]byte{"benchmarks.md": render(d, other)}
	for _, p := range plots {
		var svg bytes.Buffer
		if err := p.draw(d, &svg); err != nil {
			return fmt.Errorf("draw %s: %w", p.file, err)
		}
		files[filepath.Join("plots", p.file)] = svg.Bytes()
	}
	if err := os.MkdirAll(filepath.Join(docs, "plots"), 0o755); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(docs, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func load(path string) (*dataset, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := parse(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return d, nil
}
