package report

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestJudge(t *testing.T) {
	etcd := &Peer{Name: "etcd", Value: 1000}
	for _, test := range []struct {
		row  Row
		want Verdict
	}{
		{Row{Value: 499, Unit: "ms", Target: "≤ 500 ms"}, Met},
		{Row{Value: 501, Unit: "ms", Target: "≤ 500 ms"}, Missed},
		{Row{Value: 0, Unit: "bytes", Target: "= 0 bytes"}, Met},
		{Row{Value: 1, Unit: "% CPU", Target: "< 1 % CPU"}, Missed},
		{Row{Value: 12_000, Unit: "/s", Target: "≥ 10,000 /s"}, Met},
		{Row{Value: 1900, Unit: "/s", Peer: etcd, Target: "≥ 2 ×"}, Missed},
		{Row{Value: 2100, Unit: "/s", Peer: etcd, Target: "≥ 2 ×"}, Met},
		{Row{Value: 2100, Unit: "/s", Target: "≥ 2 ×"}, ""},
		{Row{Value: 2100, Unit: "/s"}, ""},
	} {
		if err := test.row.Judge(); err != nil || test.row.Verdict != test.want {
			t.Errorf("%v: verdict %q, %v; want %q", test.row, test.row.Verdict, err, test.want)
		}
	}
	for _, target := range []string{"fast", "≤ x ms", "≤ 5 s", "about 5 ms"} {
		if err := (&Row{Value: 1, Unit: "ms", Target: target}).Judge(); err == nil {
			t.Errorf("the target %q is taken", target)
		}
	}
}

func TestFigure(t *testing.T) {
	for value, want := range map[float64]string{0: "0 ms", 0.0523: "0.052 ms", 4.567: "4.57 ms", 45.67: "45.7 ms", 4567.8: "4568 ms", 1234567: "1,234,567 ms"} {
		if got := Figure(value, "ms"); got != want {
			t.Errorf("%v is shown as %q, want %q", value, got, want)
		}
	}
}

// What a program writes for the driver, the driver can read.
func TestAddForTheDriver(t *testing.T) {
	var out bytes.Buffer
	row := Row{What: "writes", Value: 2, Unit: "/s", Peer: &Peer{Name: "etcd", Value: 1}, Target: "≥ 1 ×"}
	if err := New(&out, true).Add(row); err != nil {
		t.Fatal(err)
	}
	var got Row
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Ratio != 2 || got.Verdict != Met || got.Peer.Name != "etcd" {
		t.Errorf("read %+v, %v", got, err)
	}
}
