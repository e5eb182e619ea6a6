package nemesis_test

import (
	"reflect"
	"slices"
	"testing"

	"kontiki/jepsen/nemesis"
)

func draw(t *testing.T, seed uint64, n int, kinds ...string) (rounds []nemesis.Round) {
	t.Helper()
	plan, err := nemesis.NewPlan(seed, kinds, 5)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		rounds = append(rounds, plan.Next())
	}
	return rounds
}

func TestSeedRepeatsPlan(t *testing.T) {
	if one, two := draw(t, 7, 50, "mix"), draw(t, 7, 50, "mix"); !reflect.DeepEqual(one, two) {
		t.Error("one seed draws two plans")
	}
	if one, two := draw(t, 7, 50, "mix"), draw(t, 8, 50, "mix"); reflect.DeepEqual(one, two) {
		t.Error("two seeds draw one plan")
	}
}

// A mix plays every fault before long, sometimes two at a time, and never takes a disk
// away while something else is wrong.
func TestMix(t *testing.T) {
	drawn := make(map[string]int)
	pairs := 0
	for _, round := range draw(t, 3, 500, "mix") {
		for _, f := range round.Faults {
			drawn[f.Kind]++
			if f.Kind == "wipe" && len(round.Faults) > 1 {
				t.Fatalf("a disk is taken away beside another fault: %+v", round)
			}
		}
		if len(round.Faults) > 1 {
			pairs++
		}
		if round.Quiet <= 0 || round.Lasts <= 0 {
			t.Fatalf("%+v", round)
		}
	}
	for _, name := range nemesis.Names() {
		if drawn[name] < 10 {
			t.Errorf("%s was drawn %d times of 500", name, drawn[name])
		}
	}
	if pairs < 20 {
		t.Errorf("two at a time were drawn %d times of 500", pairs)
	}
}

func TestPlanKeepsToItsKinds(t *testing.T) {
	for _, round := range draw(t, 5, 100, "kill", "pause") {
		if len(round.Faults) != 1 || !slices.Contains([]string{"kill", "pause"}, round.Faults[0].Kind) {
			t.Fatalf("%+v", round)
		}
	}
	for _, kinds := range [][]string{{"earthquake"}, {"kill", "kill"}} {
		if _, err := nemesis.NewPlan(1, kinds, 3); err == nil {
			t.Errorf("a plan is drawn from %v", kinds)
		}
	}
	if plan, err := nemesis.NewPlan(1, nil, 3); err != nil || !plan.Empty() {
		t.Errorf("a plan of nothing: %v", err)
	}
}
