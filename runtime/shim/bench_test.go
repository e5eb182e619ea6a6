package shim_test

import (
	"slices"
	"testing"
	"time"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

// BenchmarkContainer times what a pod's start consists of, one at a time, with
// all defaults (seccomp, masked paths), and reports medians per step.
func BenchmarkContainer(b *testing.B) {
	e := shimtest.New(b)
	steps := map[string][]float64{}
	i := 0
	step := func(name string, do func() error) {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(name, err)
		}
		steps[name] = append(steps[name], float64(time.Since(start).Microseconds())/1000)
	}
	for b.Loop() {
		i++
		id := itoa(i)
		spec := e.Spec("s"+id, "c"+id, "run")
		step("sandbox-ms", func() error {
			_, err := e.Client.CreateSandbox(b.Context(), shim.SandboxSpec{ID: "s" + id, PodUID: id, QOS: shim.Burstable, Hostname: id})
			return err
		})
		step("create-ms", func() error { _, err := e.Client.Create(b.Context(), spec); return err })
		step("start-ms", func() error { _, err := e.Client.Start(b.Context(), spec.ID); return err })
		step("exec-ms", func() error {
			_, _, err := e.Client.ExecSync(b.Context(), spec.ID, shim.ExecSpec{Args: []string{"/probe", "exit", "0"}}, 10)
			return err
		})
		step("info-ms", func() error { _, err := e.Client.Info(b.Context()); return err })
		step("delete-ms", func() error { return e.Client.Delete(b.Context(), spec.ID) })
		step("remove-ms", func() error { return e.Client.RemoveSandbox(b.Context(), "s"+id) })
	}
	for name, times := range steps {
		slices.Sort(times)
		b.ReportMetric(times[len(times)/2], name)
	}
}
