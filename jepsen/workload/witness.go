package workload

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/jepsen/history"
)

// WitnessImage is the name of the image of jepsen/witness on every node.
const WitnessImage = "kontiki.local/witness:v1"

// F of what containers tell: that one began, from when to when it was there, and what
// came of a question.
const (
	born, lived, asked = "born", "lived", "asked"
)

// containers are a workload's containers, as they tell of themselves in a folder.
type containers struct {
	run      *Run
	workload string
	dir      string
	offset   time.Duration // of the run's times from the machine's clock

	mu    sync.Mutex // protects lives
	lives map[string]*containerLife
}

// containerLife is what jepsen/witness writes into a file.
type containerLife struct {
	Name    string `json:"name"`
	Pod     string `json:"pod"`
	UID     string `json:"uid"`
	Node    string `json:"node"`
	Address string `json:"address"`
	Born    int64  `json:"born"`

	last    int64
	process int
	read    int64            // of the file of its questions
	reached map[string]int64 // when it reached whom last
}

// question is a line of that file.
type question struct {
	To     string `json:"to"`
	Began  int64  `json:"began"`
	Ended  int64  `json:"ended"`
	By     string `json:"by"`
	Failed string `json:"failed"`
}

func (w Workload) containersOf(r *Run) *containers {
	return &containers{run: r, workload: w.Name, dir: filepath.Join(r.Shared, w.Name), lives: make(map[string]*containerLife)}
}

// clock is the machine's clock, which containers tell their times of.
func clock() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		panic("workload: the machine has no clock: " + err.Error())
	}
	return now.Nano()
}

// follow reads what containers tell and writes it down until ctx ends, and once more.
func (c *containers) follow(ctx context.Context) error {
	c.offset = time.Since(c.run.Recorder.Began()) - time.Duration(clock())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		over := ctx.Err() != nil
		if err := c.read(); err != nil {
			return err
		}
		if over {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	for _, path := range sortedKeys(c.lives) {
		l := c.lives[path]
		c.tell(l, history.Event{F: lived, Key: l.Name, Since: c.time(l.Born), Until: c.time(l.last)})
	}
	return nil
}

// time is a time of the machine's clock as one of the run.
func (c *containers) time(machine int64) int64 { return machine + int64(c.offset) }

func (c *containers) tell(l *containerLife, e history.Event) {
	e.Process, e.Node, e.Workload, e.Value = l.process, l.Node, c.workload, l.Pod+" "+l.UID
	if e.Type == "" {
		e.Type = history.Info
	}
	c.run.Recorder.Record(e)
}

func (c *containers) read() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(c.dir, "*.life"))
	if err != nil {
		return err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		line, last, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			return fmt.Errorf("%s is not a witness's file: %q", path, data)
		}
		l := c.lives[path]
		if l == nil {
			l = &containerLife{process: int(c.run.processes.Add(1)), reached: make(map[string]int64)}
			if err := json.Unmarshal(line, l); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			c.lives[path] = l
			c.tell(l, history.Event{F: born, Key: l.Name, Level: l.Address, Since: c.time(l.Born)})
		}
		if l.last, err = strconv.ParseInt(strings.TrimSpace(string(last)), 10, 64); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := c.readQuestions(l, strings.TrimSuffix(path, ".life")+".asked"); err != nil {
			return err
		}
	}
	return nil
}

// readQuestions takes up the lines that were added to a file.
func (c *containers) readQuestions(l *containerLife, path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	data := make([]byte, info.Size()-l.read)
	if _, err := file.ReadAt(data, l.read); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	l.read += int64(len(data))
	for line := range bytes.Lines(data) {
		var q question
		if err := json.Unmarshal(line, &q); err != nil {
			return fmt.Errorf("%s: %q: %w", path, line, err)
		}
		e := history.Event{F: asked, Key: q.To, Type: history.Info, Level: q.By, Error: q.Failed, Since: c.time(q.Began), Until: c.time(q.Ended)}
		if q.Failed == "" {
			l.reached[q.To] = e.Since
		}
		c.tell(l, e)
	}
	return nil
}

// witnessPod is a pod of one witness, which does what it is told.
func (c *containers) witnessPod(labels map[string]string, args ...string) corev1.PodTemplateSpec {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	// Pods leave a node soon that is not heard of: what takes their place must not be there too early.
	soon := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](1)}
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](3),
			AutomountServiceAccountToken:  ptr.To(false),
			Tolerations:                   []corev1.Toleration{soon(corev1.TaintNodeNotReady), soon(corev1.TaintNodeUnreachable)},
			Containers: []corev1.Container{{
				Name: "witness", Image: WitnessImage, Args: args,
				Env: []corev1.EnvVar{
					{Name: "WITNESS_DIR", Value: "/shared"},
					field("POD", "metadata.name"), field("UID", "metadata.uid"), field("NODE", "spec.nodeName"),
				},
				VolumeMounts: []corev1.VolumeMount{{Name: "witness", MountPath: "/shared"}},
			}},
			Volumes: []corev1.Volume{{Name: "witness", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
				Path: c.dir, Type: ptr.To(corev1.HostPathDirectoryOrCreate)}}}},
		},
	}
}

// named gives the witness of a pod the name that nobody else may have.
func named(pod corev1.PodTemplateSpec, e corev1.EnvVar) corev1.PodTemplateSpec {
	e.Name = "NAME"
	pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, e)
	return pod
}

// thereLocked are the lives that were there a moment ago.
func (c *containers) thereLocked() (lives []*containerLife) {
	now := clock()
	for _, path := range sortedKeys(c.lives) {
		if l := c.lives[path]; now-l.last < int64(2*time.Second) {
			lives = append(lives, l)
		}
	}
	return lives
}

// livesIn are the lives that a history tells of, as the checker knows them. One that has
// no end in it, since the run was broken off, is a moment.
func (h judged) livesIn() map[int]history.Event {
	lives := make(map[int]history.Event)
	for _, e := range h.events {
		switch e.F {
		case born:
			e.Until = e.Since
			lives[e.Process] = e
		case lived:
			l := lives[e.Process]
			l.Until = e.Until
			lives[e.Process] = l
		}
	}
	return lives
}

// settle waits until the last read of a workload's objects shows them as they shall be.
// What comes of it is in the history, and judged.
func (w Workload) settle(ctx context.Context, r *Run, is func(ctx context.Context, c *client) error) error {
	p, err := r.process(w, r.Nodes[0])
	if err != nil {
		return err
	}
	until, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	p.do(until, history.Event{F: final}, settleTime, func(ctx context.Context, _ *history.Event) error {
		return untilDone(ctx, "all to be as it shall be", func() error { return is(ctx, p.client) })
	})
	return ctx.Err()
}

// settleTime bounds how long it takes, when all faults are over.
const settleTime = 90 * time.Second

func sortedLives(lives map[int]history.Event) []history.Event {
	var all []history.Event
	for _, l := range lives {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b history.Event) int { return int(a.Index - b.Index) })
	return all
}
