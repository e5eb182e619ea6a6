// Package pod runs one pod on this node: a worker per pod, which looks at what
// is (Record), asks a pure function what to do next (Step), does it, and says
// how the pod is (Status). Every action can be repeated, so a worker that starts
// anew on an old record goes on where the last one died.
//
// Below the pod's directory, DataDir/pods/UID:
//
//	state.json               the Record
//	etc.hosts, resolv.conf, etc.hostname   bound into every container
//	volumes.d/NAME           emptyDir, configMap, secret, downwardAPI, projected
//	subpaths.d/CONTAINER/    what subPaths of attempts are, pinned by bind mounts
//	CONTAINER/N.log          output of attempt N, in CRI format
//	CONTAINER/termination-log.N
//	CONTAINER/root.N/        overlay of attempt N: rootfs, upper, work
//
// Names of our own have a dot in them, which names of containers cannot have.
//
// A Worker belongs to the goroutine that calls Run; its other methods only leave
// messages and may be called by anyone. Only runtime/agent imports this package.
package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/shim"
)

// Record is what a worker knows. Fields with JSON names survive the agent; the
// others are found again when it starts.
type Record struct {
	Pod        *corev1.Pod           `json:"pod"` // without status: ours is computed
	StartTime  time.Time             `json:"startTime"`
	IPs        []string              `json:"ips,omitempty"`
	Containers map[string]*Container `json:"containers"`
	// Stopping is set once the pod must end, and never taken back.
	Stopping *Stopping `json:"stopping,omitempty"`
	TornDown bool      `json:"tornDown,omitempty"` // sandbox, address and volumes are gone
	// Claims are the persistent volumes of the pod, by name of the volume in its spec.
	Claims map[string]Claimed `json:"claims,omitempty"`
	// Given are the emptyDirs, by name, whose ownership is as the pod wants it.
	Given map[string]bool `json:"given,omitempty"`

	Gone        bool      `json:"-"` // the API no longer has it
	Published   bool      `json:"-"` // the API has the last status of a pod that was torn down
	Finalized   bool      `json:"-"`
	FinalRetry  time.Time `json:"-"` // when to tell the API again
	ForgetIt    bool      `json:"-"` // nothing is left; the worker ends
	Sandbox     Phase     `json:"-"`
	SandboxMade bool      `json:"-"` // its namespaces exist (its network may not)
	NetNS       string    `json:"-"` // path of its network namespace
	Volumes     Phase     `json:"-"`
	VolumesOld  bool      `json:"-"` // they are made, and what they are made of may have changed

	Conditions []corev1.PodCondition `json:"conditions,omitempty"` // last computed; for transition times
}

// Phase is how far a thing of the pod is that must be made once in an agent's life.
type Phase struct {
	Ready   bool
	Failure string    // why not, after a try
	RetryAt time.Time // when to try again
	Tries   int
}

// Stopping says why and how a pod ends.
type Stopping struct {
	At      time.Time       `json:"at"`
	Grace   time.Duration   `json:"grace"`
	Deleted bool            `json:"deleted,omitempty"` // asked for through the API
	Phase   corev1.PodPhase `json:"phase,omitempty"`   // terminal phase, when it ended by itself
	Reason  string          `json:"reason,omitempty"`
	Message string          `json:"message,omitempty"`
}

// RunState is where the current attempt of a container is.
type RunState string

// A container waits (no attempt yet, or the next is due), runs, or has exited.
const (
	Waiting RunState = ""
	Running RunState = "running"
	Exited  RunState = "exited"
)

// Container is what is known of one container of the pod.
type Container struct {
	Attempt    int           `json:"attempt"`         // of the current or next run; the restart count
	ID         string        `json:"id,omitempty"`    // of the current attempt in the shim
	Tried      bool          `json:"tried,omitempty"` // something of the current attempt may exist
	State      RunState      `json:"state,omitempty"`
	StartedAt  time.Time     `json:"startedAt,omitzero"`
	Ended      *Ended        `json:"ended,omitempty"` // of the current attempt
	Reaped     bool          `json:"reaped,omitempty"`
	Last       *Ended        `json:"last,omitempty"` // of the attempt before
	ImageID    string        `json:"imageID,omitempty"`
	ImageRef   string        `json:"imageRef,omitempty"`
	Backoff    time.Duration `json:"backoff,omitempty"`
	BackoffSet time.Time     `json:"backoffSet,omitzero"`
	Ready      bool          `json:"ready,omitempty"`   // readiness probe, of a running one
	Started    bool          `json:"started,omitempty"` // startup probe, of a running one
	KillAt     time.Time     `json:"killAt,omitzero"`   // its end was decided; SIGKILL is due then
	Asked      bool          `json:"asked,omitempty"`   // SIGTERM was sent, after the preStop hook
	Hooked     bool          `json:"hooked,omitempty"`  // the postStart hook is done
	SpecImage  string        `json:"specImage,omitempty"`
	Changed    bool          `json:"changed,omitempty"` // its specification changed: it begins anew whatever the policy
	Exec       shim.ExecSpec `json:"exec,omitzero"`     // as what a process joins it; see EnvInMemory

	EnvInMemory bool `json:"envInMemory,omitempty"` // Exec's environment is not on the disk, see secretenv.go

	Killed      bool       `json:"-"`
	BackoffTold bool       `json:"-"` // the event of this back-off was sent
	Hooking     bool       `json:"-"` // the postStart hook runs
	Stopping    bool       `json:"-"` // the preStop hook runs
	KillReason  string     `json:"-"` // a probe failed: end it, the restart policy goes on
	KillGrace   *int64     `json:"-"` // of the probe that failed, in seconds
	Image       ImageState `json:"-"`
	Create      Phase      `json:"-"` // failures to create or start
	CreateWhy   string     `json:"-"` // reason of the failure: CreateContainerConfigError, …
	ReapRetry   time.Time  // when to try again what failed to be removed
}

// ImageState is how far a container's image is.
type ImageState struct {
	Busy    bool
	Ready   bool
	Reason  string // ErrImagePull, ImagePullBackOff, ErrImageNeverPull, InvalidImageName
	Message string
	Backoff time.Duration
	RetryAt time.Time
}

// Ended tells how an attempt ended.
type Ended struct {
	ID         string    `json:"id"`
	Code       int       `json:"code"`
	Signal     int       `json:"signal,omitempty"`
	Reason     string    `json:"reason"`
	Message    string    `json:"message,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt"`
}

const recordName = "state.json"

// NewRecord is the record of a pod never seen before.
func NewRecord(pod *corev1.Pod, now time.Time) *Record {
	r := &Record{StartTime: now.Truncate(time.Second), Containers: map[string]*Container{}}
	r.SetPod(pod)
	return r
}

// SetPod takes a newer version of the pod.
func (r *Record) SetPod(pod *corev1.Pod) {
	p := pod.DeepCopy()
	p.Status, p.ManagedFields = corev1.PodStatus{}, nil
	r.Pod = p
	if r.Containers == nil {
		r.Containers = map[string]*Container{}
	}
	for _, c := range r.all() {
		if r.Containers[c.Name] == nil {
			r.Containers[c.Name] = &Container{}
		}
	}
}

// LoadRecord reads a pod's record from its directory.
func LoadRecord(dir string) (*Record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, recordName), err)
	}
	if r.Pod == nil {
		return nil, fmt.Errorf("%s: holds no pod", filepath.Join(dir, recordName))
	}
	r.SetPod(r.Pod)
	r.rememberGiven()
	for name, c := range r.Containers {
		c.fromMemory(dir, name)
	}
	return &r, nil
}

// rememberGiven completes records of before there was Given: where a container was tried, volumes had
// been given to the pod's group already.
func (r *Record) rememberGiven() {
	if r.Given != nil || fsGroup(r.Pod) == nil || r.TornDown {
		return
	}
	tried := false
	for _, c := range r.Containers {
		tried = tried || c.Tried || c.Attempt > 0
	}
	if !tried {
		return
	}
	r.Given = map[string]bool{}
	for i := range r.Pod.Spec.Volumes {
		if v := &r.Pod.Spec.Volumes[i]; v.EmptyDir != nil {
			r.Given[v.Name] = true
		}
	}
}

// writeSynced makes a file durable; a crash leaves the old or the new one.
func writeSynced(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// containerID is the same for the same attempt, whoever asks: creating it again is harmless.
func containerID(pod *corev1.Pod, name string, attempt int) string {
	return fmt.Sprintf("%s.%s.%d", pod.UID, name, attempt)
}

// ephemerals are the containers that were added to a pod for looking into it, in
// the shape of the others.
func ephemerals(spec *corev1.PodSpec) []*corev1.Container {
	list := make([]*corev1.Container, 0, len(spec.EphemeralContainers))
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		list = append(list, &c)
	}
	return list
}

func isEphemeral(spec *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

func isInit(spec *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
