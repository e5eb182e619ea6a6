// Command bench runs all measurements of this house and prints one table: a row
// per measurement with its target, what was measured, the peer in the same run,
// their ratio, and whether the target is met. `make bench` calls it. Each section
// is a program or benchmarks of packages (sections.go); DESIGN.md says how to add
// one. Nothing imports it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"kontiki/bench/report"
)

// goodbye is how long an interrupted section has to remove what it made.
const goodbye = 90 * time.Second

// driver runs sections and keeps their rows.
type driver struct {
	bin    string // where programs are built
	length string
	rows   []report.Row
}

func main() {
	var only, file string
	d := &driver{}
	flag.StringVar(&only, "only", "", "comma-separated sections; default: all")
	flag.StringVar(&file, "json", "", "file for a machine-readable copy of the table")
	flag.StringVar(&d.bin, "bin", "bin", "directory with bin/kontiki, and for the programs of the bench")
	flag.StringVar(&d.length, "length", "normal", "quick, normal or long: how long sections measure")
	list := flag.Bool("list", false, "list the sections")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *list {
		for _, s := range sections {
			fmt.Printf("%-10s %s\n", s.name, s.about)
		}
		return
	}
	if err := d.run(ctx, only, file); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the sections and prints the table, also of what there is when one of
// them fails: the others still run.
func (d *driver) run(ctx context.Context, only, file string) error {
	if !slices.Contains([]string{"quick", "normal", "long"}, d.length) {
		return fmt.Errorf("-length %s: use quick, normal or long", d.length)
	}
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	began, before := time.Now(), load()
	var failed error
	for _, s := range chosen {
		fmt.Fprintf(os.Stderr, "== %s: %s\n", s.name, s.about)
		if err := d.section(ctx, s); err != nil {
			failed = errors.Join(failed, fmt.Errorf("section %s: %w", s.name, err))
			fmt.Fprintf(os.Stderr, "section %s: %v\n", s.name, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	about := machine{
		At: began.UTC().Truncate(time.Second), Took: time.Since(began).Round(time.Second).String(), Length: d.length,
		Kernel: kernel(), CPUs: cpuCount(), LoadBefore: before, LoadAfter: load(),
	}
	if err := printTable(os.Stdout, d.rows, about); err != nil {
		return err
	}
	if file != "" {
		b, err := json.MarshalIndent(struct {
			Machine machine      `json:"machine"`
			Rows    []report.Row `json:"rows"`
		}{about, d.rows}, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	return failed
}

func choose(only string) ([]section, error) {
	if only == "" {
		return sections, nil
	}
	var chosen []section
	var names []string
	for _, s := range sections {
		names = append(names, s.name)
	}
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("there is no section %q; there are %s", name, strings.Join(names, ", "))
		}
		chosen = append(chosen, sections[i])
	}
	return chosen, nil
}

func (d *driver) section(ctx context.Context, s section) error {
	for _, program := range s.needs {
		if _, err := os.Stat(filepath.Join(d.bin, program)); err != nil {
			return fmt.Errorf("it drives %s: %w", program, err)
		}
	}
	var err error
	if s.program != "" {
		err = d.program(ctx, s)
	}
	if ctx.Err() != nil {
		return err
	}
	return errors.Join(err, d.benchmarks(ctx, s))
}

// add judges a row and shows it.
func (d *driver) add(s section, row report.Row) error {
	row.Section = s.name
	if err := row.Judge(); err != nil {
		return err
	}
	d.rows = append(d.rows, row)
	fmt.Fprintln(os.Stderr, row)
	return nil
}

// program builds and runs a program of the bench; each line that it writes is a row.
func (d *driver) program(ctx context.Context, s section) error {
	path := filepath.Join(d.bin, "bench-"+filepath.Base(s.program))
	if err := tool(ctx, "build", "-trimpath", "-o", path, "./"+s.program); err != nil {
		return err
	}
	cmd := child(ctx, path, "-json", "-length", d.length, "-bin", d.bin)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var bad error
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var row report.Row
		err := json.Unmarshal(lines.Bytes(), &row)
		if err == nil {
			err = d.add(s, row)
		}
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("it wrote %q: %w", lines.Text(), err))
		}
	}
	return errors.Join(bad, lines.Err(), cmd.Wait())
}

// benchmarks builds the test binaries of packages and runs their benchmarks, each
// in its package's directory as go test does.
func (d *driver) benchmarks(ctx context.Context, s section) error {
	var results []result
	var failed error
	bin, err := filepath.Abs(d.bin)
	if err != nil {
		return err
	}
	for _, pkg := range s.packages {
		path := filepath.Join(bin, "bench-"+strings.ReplaceAll(pkg, "/", "-")+".test")
		if err := tool(ctx, "test", "-c", "-trimpath", "-tags", "seccomp", "-o", path, "./"+pkg); err != nil {
			return err
		}
		pattern, long := s.only, map[string]string{"quick": "200ms", "normal": "1s", "long": "5s"}[d.length]
		if pattern == "" {
			pattern = "."
		}
		cmd := child(ctx, path, "-test.run", "^$", "-test.bench", pattern, "-test.benchtime", long, "-test.timeout", "20m")
		cmd.Dir = pkg
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		some, err := parseBench(out, os.Stderr)
		results = append(results, some...)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", pkg, err))
		}
	}
	for _, row := range fold(results, s.rows) {
		failed = errors.Join(failed, d.add(s, row))
	}
	return failed
}

// tool runs go.
func tool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// child is a section's process. An interrupt asks it to end and waits until it has
// cleaned up; if this process is killed, it gets the same word from the kernel.
func child(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = goodbye
	return cmd
}
