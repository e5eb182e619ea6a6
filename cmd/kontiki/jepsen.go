package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"kontiki/jepsen/lab"
	"kontiki/jepsen/nemesis"
	"kontiki/jepsen/run"
	"kontiki/jepsen/workload"
)

// exitError ends the program with a code of its own.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

// The exit codes of a proof.
const (
	exitAnomaly = 1
	exitBroken  = 2
)

func jepsenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "jepsen",
		Short: "Prove a cluster in a lab: clients and faults beside each other, and what came of it in a picture",
	}
	cmd.AddCommand(jepsenRun(), jepsenJudge(), jepsenList())
	return cmd
}

func jepsenRun() *cobra.Command {
	cfg := run.Config{Lab: lab.Config{}}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run clients against a cluster in a lab while faults strike it, and judge what they saw",
		Long: `Run makes a lab of virtual hosts, starts a cluster in it and has API clients work on
every node, each with a connection of its own, while faults strike the nodes and the
network between them. Every call and every return is written into a history, which is
judged in the end; report.html shows it.

It exits with 0 if nothing was found, with 1 if there is an anomaly, and with 2 if the
run itself is broken and proves nothing, or less than was asked for: if no fault was
played, or a workload had no write acknowledged. ` + "`kontiki jepsen list`" + ` tells the workloads and faults.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Progress = cmd.OutOrStdout()
			if err := completeRun(cmd, &cfg); err != nil {
				return exitError{err, exitBroken}
			}
			klog.LogToStderr(false) // client-go tells of answers that break off, which is what faults are for
			klog.SetOutput(io.Discard)
			fmt.Fprintf(cfg.Progress, "seed %d; all goes to %s\n", cfg.Seed, cfg.Dir)
			verdict, err := run.Do(cmd.Context(), cfg)
			return tellVerdict(cmd.OutOrStdout(), verdict, err)
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&cfg.Workloads, "workload", []string{"all"}, "what clients do: "+strings.Join(workload.Names(), ", ")+", or all")
	flags.StringSliceVar(&cfg.Nemeses, "nemesis", []string{"mix"}, "faults to draw from: "+strings.Join(nemesis.Names(), ", ")+", mix, or none")
	flags.IntVar(&cfg.Nodes, "nodes", 5, "number of hosts, 3 at least")
	flags.DurationVar(&cfg.Time, "time", 2*time.Minute, "how long faults are played")
	flags.Uint64Var(&cfg.Seed, "seed", 0, "draws the faults and what clients do; by chance if it is 0")
	flags.IntVar(&cfg.Clients, "clients", 2, "clients of each workload on each node")
	flags.Float64Var(&cfg.Rate, "rate", 60, "requests a second of each workload, of all its clients together")
	flags.StringVar(&cfg.Dir, "report", "", "directory for history, report and logs (default jepsen-SEED)")
	flags.StringVar(&cfg.Lab.Name, "name", "jepsen", "name of the lab that is made and removed")
	flags.StringVar(&cfg.Lab.Root, "root", lab.DefaultRoot, "directory for what the lab's hosts write")
	flags.StringVar(&cfg.Witness, "witness", "", "archive of the image that containers of a proof run (default examples/witness.tar beside this program)")
	flags.StringVar(&cfg.Lab.Binary, "binary", "", "the kontiki program to prove, if not this one")
	return cmd
}

// completeRun fills in what was not said, and refuses what makes no sense.
func completeRun(cmd *cobra.Command, cfg *run.Config) (err error) {
	switch {
	case cfg.Nodes < 3:
		return fmt.Errorf("--nodes %d: a cluster that shall survive a fault has 3 nodes at least", cfg.Nodes)
	case cfg.Time <= 0 || cfg.Rate <= 0 || cfg.Clients < 1:
		return errors.New("--time, --rate and --clients must be more than nothing")
	}
	for cfg.Seed == 0 {
		cfg.Seed = rand.Uint64()
	}
	if cfg.Dir == "" {
		cfg.Dir = "jepsen-" + strconv.FormatUint(cfg.Seed, 10)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if cfg.Witness == "" {
		cfg.Witness = filepath.Join(filepath.Dir(self), "examples", "witness.tar")
	}
	if cfg.Witness, err = filepath.Abs(cfg.Witness); err != nil {
		return err
	}
	if _, err := os.Stat(cfg.Witness); err != nil {
		return fmt.Errorf("the image of the witness: %w; make build makes it, --witness names another", err)
	}
	if cfg.Lab.Binary == "" {
		cfg.Lab.Binary = self
	} else {
		cfg.Lab.Binary, err = filepath.Abs(cfg.Lab.Binary)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.Lab.Binary); err != nil {
		return err
	}
	cfg.Program = "kontiki " + version
	cfg.Command = fmt.Sprintf("kontiki jepsen run --workload %s --nemesis %s --nodes %d --time %v --clients %d --rate %g --seed %d",
		strings.Join(cfg.Workloads, ","), strings.Join(cfg.Nemeses, ","), cfg.Nodes, cfg.Time, cfg.Clients, cfg.Rate, cfg.Seed)
	if cmd.Flags().Changed("binary") {
		cfg.Program = cmd.Flags().Lookup("binary").Value.String()
		cfg.Command += " --binary " + cfg.Program
	}
	return nil
}

func jepsenJudge() *cobra.Command {
	return &cobra.Command{
		Use:   "judge DIR",
		Short: "Judge the history of an earlier run again and write its report anew",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			verdict, err := run.Judge(args[0])
			return tellVerdict(cmd.OutOrStdout(), verdict, err)
		},
	}
}

// mostTold bounds the anomalies that are printed; the report has more.
const mostTold = 10

// tellVerdict prints what was found, and says with which code to exit.
func tellVerdict(out io.Writer, v *run.Verdict, err error) error {
	if err != nil {
		return exitError{fmt.Errorf("the run is broken and proves nothing: %w", err), exitBroken}
	}
	fmt.Fprintf(out, "%s\n", v.Counts)
	for i, f := range v.Findings {
		if i == mostTold {
			fmt.Fprintf(out, "… and %d more\n", len(v.Findings)-i)
			break
		}
		fmt.Fprintf(out, "ANOMALY %s: %s\n", f.Workload, f.Anomaly)
	}
	for _, why := range v.Unproven {
		fmt.Fprintf(out, "NOT PROVEN %s\n", why)
	}
	fmt.Fprintf(out, "report: %s\n", v.Report)
	if len(v.Findings) > 0 {
		return exitError{fmt.Errorf("%d anomalies", len(v.Findings)), exitAnomaly}
	}
	if len(v.Unproven) > 0 {
		return exitError{errors.New("no anomaly, and not all was proven"), exitBroken}
	}
	fmt.Fprintln(out, "no anomaly")
	return nil
}

func jepsenList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Tell what there is of workloads and faults",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			out := cmd.OutOrStdout()
			fmt.Fprintln(out, "Workloads")
			for _, w := range workload.All() {
				fmt.Fprintf(out, "  %-18s %s\n", w.Name, w.About)
			}
			fmt.Fprintln(out, "Nemeses")
			for _, name := range append(nemesis.Names(), "mix") {
				fmt.Fprintf(out, "  %-18s %s\n", name, nemesis.About(name))
			}
		},
	}
}
