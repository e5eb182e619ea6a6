package check

import (
	"maps"
	"slices"
	"strings"
)

// Claim is an attempt to be the one who creates a name.
type Claim struct {
	Span
	Name    string
	By      string // the value that it creates the name with; no other claim has it
	Outcome Outcome
	Taken   bool // it is OK and was told that the name exists already
}

// Unique tells which names were not created by exactly one claim, once and for ever: at most
// one is told that it did, who did is found there in the end, and who is refused is refused
// by that one. held is the value behind each name then.
func Unique(claims []Claim, held map[string]string) []Anomaly {
	byName := make(map[string][]Claim)
	for _, c := range claims {
		byName[c.Name] = append(byName[c.Name], c)
	}
	var found []Anomaly
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		found = append(found, unique(name, byName[name], held[name])...)
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		if byName[name] == nil {
			found = append(found, anomaly("a write from nowhere", "%s is there, and nobody created it", name))
		}
	}
	return found
}

func unique(name string, claims []Claim, held string) (found []Anomaly) {
	var winners, maybe []Claim
	for _, c := range claims {
		switch {
		case c.Outcome == OK && !c.Taken:
			winners = append(winners, c)
		case c.Outcome == Unknown:
			maybe = append(maybe, c)
		case c.Outcome == Failed && c.By == held:
			found = append(found, anomaly("a write that failed happened", "%s is there as %s created it, who was told that it is not", name, c.By).at(c.Call))
		case c.Taken && c.By == held:
			found = append(found, anomaly("a write that was refused happened", "%s is there as %s created it, who was told that it existed already", name, c.By).at(c.Call))
		}
	}
	switch {
	case len(winners) > 1:
		var names []string
		var places []int64
		for _, w := range winners {
			names, places = append(names, w.By), append(places, w.Call)
		}
		return append(found, anomaly("a name created twice", "%s was created by %s", name, strings.Join(names, " and by ")).at(places...))
	case len(winners) == 1 && held == "":
		return append(found, anomaly("a lost write", "%s was created by %s and is not there", name, winners[0].By).at(winners[0].Call))
	case len(winners) == 1 && held != winners[0].By:
		return append(found, anomaly("a lost write", "%s was created by %s and is there as %s created it", name, winners[0].By, held).at(winners[0].Call))
	case held != "" && !slices.ContainsFunc(claims, func(c Claim) bool { return c.By == held }):
		return append(found, anomaly("a write from nowhere", "%s is there as %s created it, which nobody did", name, held))
	}
	if len(found) > 0 {
		return found
	}
	return refusals(name, claims, maybe, held)
}

// refusals tells which claims were not refused by the one that may refuse: since a name is
// created once and never goes, that is the claim that is there in the end, and it had
// begun before the refusal came.
func refusals(name string, claims, maybe []Claim, held string) (found []Anomaly) {
	for _, c := range claims {
		if !c.Taken {
			continue
		}
		begun := func(o Claim) bool { return o.Call < c.Return }
		holds := func(o Claim) bool { return o.By == held && begun(o) }
		switch {
		case slices.ContainsFunc(claims, holds):
		case held == "" && slices.ContainsFunc(maybe, begun):
			found = append(found, anomaly("a lost write", "%s was told that %s exists already, and it is not there", c.By, name).at(c.Call))
		case held == "":
			found = append(found, anomaly("refused for no reason", "%s was told that %s exists already, and nobody had created it", c.By, name).at(c.Call))
		default:
			found = append(found, anomaly("refused for no reason", "%s was told that %s exists already, before %s began, who created it", c.By, name, held).at(c.Call))
		}
	}
	return found
}
