package report

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// The picture, from the top: names of faults in rows, throughput of all nodes, and a
// strip of latencies for each node. Faults are bands through all of it, anomalies red
// lines with numbers.
const (
	pictureWidth = 1180
	left, right  = 78, 14
	nameRow      = 17
	mostNameRows = 4
	flowHeight   = 120
	stripHeight  = 78
	gap          = 26
	leastLatency = time.Millisecond
	mostLatency  = 10 * time.Second
)

// colours of nodes, apart for most eyes, on light and on dark.
var colours = []string{"#4e86c6", "#2a9d8f", "#9b72cf", "#7d9b2c", "#b0745a", "#5f8fa3", "#c06c9a"}

func colour(i int) string { return colours[i%len(colours)] }

// legendEntry is a node and its colour.
type legendEntry struct{ Name, Colour string }

func (s *series) legend() (all []legendEntry) {
	for i, node := range s.nodes {
		all = append(all, legendEntry{node, colour(i)})
	}
	return all
}

// canvas is the picture that is being drawn.
type canvas struct {
	strings.Builder
	s     *series
	width time.Duration // of a bucket
}

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(c, format+"\n", args...) }

func (c *canvas) x(at time.Duration) float64 {
	return left + (pictureWidth-left-right)*math.Min(1, float64(at)/float64(c.s.length))
}

// draw draws the picture.
func (s *series) draw(marks []mark) string {
	c := &canvas{s: s, width: max(500*time.Millisecond, s.length/260)}
	rows := s.nameRows()
	top := float64((slices.Max(rows)+1)*nameRow + 12)
	height := top + flowHeight + float64(len(s.nodes))*(stripHeight+gap) + gap + 24
	c.add(`<svg viewBox="0 0 %d %.0f" role="img" aria-label="throughput and latency of every node over time, with faults and anomalies">`, pictureWidth, height)
	c.faults(rows, top, height-24)
	c.flow(top)
	for i, node := range s.nodes {
		c.strip(i, node, top+flowHeight+gap+float64(i)*(stripHeight+gap))
	}
	c.axis(height - 24)
	c.anomalies(marks, top, height-24)
	c.add(`</svg>`)
	return c.String()
}

// nameRows are the rows of the names of faults: -1 where there is room in none, and in
// front a row that there is always.
func (s *series) nameRows() []int {
	rows := []int{0}
	var ends [mostNameRows]float64
	scale := &canvas{s: s}
	for _, b := range s.bands {
		from, row := scale.x(b.from), -1
		for i := range ends {
			if from >= ends[i] {
				// An average letter of this size is 6.2 wide.
				row, ends[i] = i, from+12+6.2*float64(len(b.kind))
				break
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// faults draws the bands, and their names where there is room.
func (c *canvas) faults(rows []int, top, bottom float64) {
	for i, b := range c.s.bands {
		from, to := c.x(b.from), math.Max(c.x(b.to), c.x(b.from)+1)
		words := html.EscapeString(fmt.Sprintf("%s %s: %s to %s", b.kind, b.whom, seconds(b.from), seconds(b.to)))
		c.add(`<rect class="fault" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`, from, top-6, to-from, bottom-top+6, words)
		if b.whole > b.to {
			c.add(`<rect class="healing" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>healing after %s</title></rect>`, to, top-6, c.x(b.whole)-to, bottom-top+6, words)
		}
		if row := rows[i+1]; row >= 0 {
			y := float64(nameRow*(row+1)) - 5
			c.add(`<line class="leader" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/>`, from+0.5, y-9, from+0.5, top-6)
			c.add(`<text class="name" x="%.1f" y="%.1f">%s<title>%s</title></text>`, from+4, y, html.EscapeString(b.kind), words)
		}
	}
}

// flow draws answers a second: of all nodes as an area, of each as a line.
func (c *canvas) flow(top float64) {
	most := 1.0
	total := make([]float64, int(c.s.length/c.width)+1)
	rates := make([][]float64, len(c.s.nodes))
	for i, node := range c.s.nodes {
		for j, b := range c.s.buckets(node, c.width) {
			rate := float64(b.answered) / c.width.Seconds()
			rates[i] = append(rates[i], rate)
			total[j] += rate
			most = math.Max(most, total[j])
		}
	}
	most = nice(most)
	y := func(rate float64) float64 { return top + flowHeight*(1-rate/most) }
	for _, rate := range []float64{0, most / 2, most} {
		c.add(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/><text class="tick" x="%d" y="%.1f">%g</text>`,
			left, pictureWidth-right, y(rate), y(rate), left-6, y(rate)+3.5, rate)
	}
	c.add(`<text class="title" x="%d" y="%.1f">answers a second</text>`, left+6, top+13)
	c.add(`<path class="total" d="%s"/>`, c.area(total, y, top+flowHeight))
	for i := range rates {
		c.add(`<path class="line" stroke="%s" d="%s"><title>%s</title></path>`, colour(i), c.line(rates[i], y), html.EscapeString(c.s.nodes[i]))
	}
}

// middle is where the n-th bucket is drawn.
func (c *canvas) middle(n int) float64 { return c.x(time.Duration(n)*c.width + c.width/2) }

func (c *canvas) line(values []float64, y func(float64) float64) string {
	var path strings.Builder
	pen := "M"
	for i, v := range values {
		if math.IsNaN(v) {
			pen = "M"
			continue
		}
		fmt.Fprintf(&path, "%s%.1f %.1f", pen, c.middle(i), y(v))
		pen = "L"
	}
	return path.String()
}

func (c *canvas) area(values []float64, y func(float64) float64, bottom float64) string {
	return fmt.Sprintf("M%.1f %.1f", c.middle(0), bottom) + "L" + c.line(values, y)[1:] + fmt.Sprintf("L%.1f %.1fZ", c.middle(len(values)-1), bottom)
}

// strip draws a node's latencies on a logarithmic scale: from the median to the 95th of a
// hundred as a bar, the median as a line, the slowest as a dot; and below, what failed.
func (c *canvas) strip(i int, node string, top float64) {
	scale := math.Log10(float64(mostLatency) / float64(leastLatency))
	y := func(d time.Duration) float64 {
		share := math.Log10(math.Max(1, float64(d)/float64(leastLatency))) / scale
		return top + stripHeight*(1-math.Min(1, share))
	}
	for _, d := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 10 * time.Second} {
		c.add(`<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`, left, pictureWidth-right, y(d), y(d))
		if d == time.Millisecond || d == 100*time.Millisecond || d == mostLatency {
			c.add(`<text class="tick" x="%d" y="%.1f">%v</text>`, left-6, y(d)+3.5, d)
		}
	}
	c.add(`<text class="node" x="8" y="%.1f" style="fill:%s">%s</text>`, top+stripHeight/2+4, colour(i), html.EscapeString(node))
	buckets := c.s.buckets(node, c.width)
	step := math.Max(1, c.x(c.width)-left)
	medians := make([]float64, len(buckets))
	for j, b := range buckets {
		x := c.middle(j)
		medians[j] = math.NaN()
		if b.answered > 0 {
			medians[j] = float64(b.median)
			c.add(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" opacity=".32"/>`,
				x-step*0.42, y(b.p95), step*0.84, math.Max(1, y(b.median)-y(b.p95)), colour(i))
			c.add(`<circle cx="%.1f" cy="%.1f" r="1.4" fill="%s" opacity=".8"/>`, x, y(b.slowest), colour(i))
		}
		c.lost(b, x, step, top+stripHeight+3)
	}
	c.add(`<path class="line" stroke="%s" d="%s"/>`, colour(i), c.line(medians, func(v float64) float64 { return y(time.Duration(v)) }))
}

// lost draws what was not answered in a part of the time, the more the higher.
func (c *canvas) lost(b bucket, x, step, y float64) {
	for _, kind := range []struct {
		class string
		n     int
	}{{"unknown", b.unknown}, {"failed", b.failed}} {
		if kind.n == 0 {
			continue
		}
		h := math.Min(9, 2+1.6*math.Log2(float64(kind.n)+1))
		c.add(`<rect class="%s" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%d %s</title></rect>`, kind.class, x-step*0.45, y, step*0.9, h, kind.n, kind.class)
		y += h
	}
}

// axis draws the time.
func (c *canvas) axis(bottom float64) {
	step := time.Duration(nice(c.s.length.Seconds()/12) * float64(time.Second))
	for at := time.Duration(0); at <= c.s.length; at += max(step, time.Second) {
		c.add(`<line class="leader" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/><text class="time" x="%.1f" y="%.1f">%g s</text>`,
			c.x(at), c.x(at), bottom, bottom+4, c.x(at), bottom+16, at.Seconds())
	}
}

// anomalies draws a red line for each, with its number where there is room.
func (c *canvas) anomalies(marks []mark, top, bottom float64) {
	last := -100.0
	for _, m := range marks {
		x := c.x(m.at)
		c.add(`<a href="#anomaly-%d"><title>%d: %s</title>`, m.number, m.number, html.EscapeString(m.text))
		c.add(`<line class="anomaly" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x, x, top-4, bottom)
		for i, node := range c.s.nodes {
			if node == m.node {
				y := top + flowHeight + gap + float64(i)*(stripHeight+gap) + stripHeight/2
				c.add(`<circle class="spot" cx="%.1f" cy="%.1f" r="5"/>`, x, y)
			}
		}
		if math.Abs(x-last) > 15 {
			c.add(`<circle class="disc" cx="%.1f" cy="%.1f" r="8"/><text class="number" x="%.1f" y="%.1f">%d</text>`, x, top+2, x, top+5.5, m.number)
			last = x
		}
		c.add(`</a>`)
	}
}

// nice is a round number not less than v.
func nice(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5, 10} {
		if v <= m*power {
			return m * power
		}
	}
	return 10 * power
}
