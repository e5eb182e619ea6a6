// Command cluster measures whole nodes on virtual hosts: how long three blank ones
// take to be a cluster, what they use when nothing happens, how long one that was cut
// off takes to be back, and how long it takes until one that was lost is not missed. It is the
// section "cluster" of the bench. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"kontiki/bench/lab"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// options are the command line.
type options struct {
	bin  string
	only []string
	peer bool
	extent
}

// extent is how much is measured.
type extent struct {
	births int
	settle time.Duration // before idleness is measured: starts leave some work behind
	idle   time.Duration
	cuts   int
	cut    time.Duration // how long a node is cut off each time
	losses int
}

var extents = map[string]extent{
	"quick":  {births: 1, settle: 5 * time.Second, idle: 15 * time.Second, cuts: 1, cut: 10 * time.Second, losses: 1},
	"normal": {births: 7, settle: 30 * time.Second, idle: 2 * time.Minute, cuts: 3, cut: 30 * time.Second, losses: 5},
	"long":   {births: 15, settle: time.Minute, idle: 10 * time.Minute, cuts: 9, cut: 30 * time.Second, losses: 15},
}

const nodes = 3

func main() {
	if len(os.Args) == 3 && os.Args[1] == "ask" { // what this program runs on hosts
		if err := ask(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory with the program kontiki and examples/web.tar")
	some := flag.String("only", "", "measure only these, of "+strings.Join(names(), ","))
	flag.BoolVar(&o.peer, "peer", true, "measure upstream's kube-apiserver, too, when idle; it is built when it is missing")
	section.Main(extents, func(ctx context.Context, e extent, out *report.Report) error {
		o.extent = e
		if *some != "" {
			o.only = strings.Split(*some, ",")
		}
		for _, name := range o.only {
			if !slices.Contains(names(), name) {
				return fmt.Errorf("-only %s: there are %s", name, strings.Join(names(), ", "))
			}
		}
		return run(ctx, o, out)
	})
}

// part is one measurement; they follow each other in this order. The first leaves a cluster to the others.
type part struct {
	name    string
	measure func(context.Context, *lab.Lab, options, *report.Report) error
}

var parts = []part{
	{"birth", measureBirth},
	{"idle", measureIdle},
	{"healing", measureHealing},
	{"loss", measureLoss},
}

func names() (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

func (o options) wants(part string) bool { return len(o.only) == 0 || slices.Contains(o.only, part) }

func run(ctx context.Context, o options, out *report.Report) (err error) {
	l, err := lab.New(o.bin, "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if !o.wants(parts[0].name) {
		if _, err := l.Up(ctx, nodes); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if !o.wants(p.name) {
			continue
		}
		if err := p.measure(ctx, l, o, out); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// measureBirth makes a cluster, again and again.
func measureBirth(ctx context.Context, l *lab.Lab, o options, out *report.Report) error {
	var formed, ready []time.Duration
	for i := range o.births {
		if i > 0 {
			if err := l.Down(); err != nil {
				return err
			}
		}
		b, err := l.Up(ctx, nodes)
		if err != nil {
			return err
		}
		formed, ready = append(formed, b.Formed), append(ready, b.Ready)
	}
	what := fmt.Sprintf("%d blank nodes started until ", nodes)
	return errors.Join(
		out.Add(spell(what+"one cluster formed", formed, "≤ 1.5 s")),
		out.Add(spell(what+"all Ready", ready, "≤ 3 s")),
	)
}

// spell is a row of how long something took, the median of all times.
func spell(what string, took []time.Duration, target string) report.Row {
	slices.Sort(took)
	return report.Row{
		What:  fmt.Sprintf("%s, median of %d", what, len(took)),
		Value: took[len(took)/2].Seconds(), Unit: "s", Target: target,
		Detail: fmt.Sprintf("worst %.2f s", took[len(took)-1].Seconds()),
	}
}
