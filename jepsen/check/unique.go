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

// Unique tells which names were not created by exactly one claim: at most one is told
// that it did, who is refused is refused by a claim that had begun, and who did is found
// there in the end. held is the value behind each name then.
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
	// Whoever is refused was refused by a winner, or by one that may have won, and that
	// had begun before the refusal came.
	for _, c := range claims {
		refusedBy := func(o Claim) bool { return o.Call < c.Return }
		if c.Taken && !slices.ContainsFunc(winners, refusedBy) && !slices.ContainsFunc(maybe, refusedBy) {
			found = append(found, anomaly("refused for no reason", "%s was told that %s exists already, and nobody had created it", c.By, name).at(c.Call))
		}
	}
	return found
}
