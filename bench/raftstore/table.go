package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// table is the result: a row per measurement, printed as it comes and once more
// at the end.
type table struct{ rows [][5]string }

func (t *table) row(what, target, measured, peer, ratio string) {
	t.rows = append(t.rows, [5]string{what, target, measured, peer, ratio})
	fmt.Printf("%s: %s (target %s; etcd %s; ratio %s)\n", what, measured, dash(target), dash(peer), dash(ratio))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (t *table) print(out io.Writer) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\ttarget\tmeasured\tetcd\tratio")
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r[0], dash(r[1]), r[2], dash(r[3]), dash(r[4]))
	}
	w.Flush()
}
