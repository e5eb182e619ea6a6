package pod

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kontiki/runtime/shim"
)

// A process that joins a container gets the container's environment, so the record has it.
// Where values of Secrets are among it, it is in memory instead, beside the pod's volumes and
// for as long: a reboot takes it, and with it the container that it is of.

// secretDir is below volumesDir. No volume has a dot in its name.
const secretDir = "env.secret"

// readsSecrets tells if a container's environment is made of Secrets, in part.
func readsSecrets(c *corev1.Container) bool {
	for _, from := range c.EnvFrom {
		if from.SecretRef != nil {
			return true
		}
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			return true
		}
	}
	return false
}

// setExec sets as what processes join a container.
func (w *Worker) setExec(spec *corev1.Container, c *Container, exec shim.ExecSpec) error {
	c.Exec, c.EnvInMemory = exec, false
	if !readsSecrets(spec) {
		return nil
	}
	if err := w.keepInMemory(spec.Name, exec.Env); err != nil {
		return fmt.Errorf("keep the environment of container %s in memory: %w", spec.Name, err)
	}
	c.EnvInMemory = true
	return nil
}

func (w *Worker) keepInMemory(container string, env []string) error {
	dir := filepath.Join(w.dir, volumesDir, secretDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if !mounted(dir) {
		size := resource.MustParse("16Mi") // more than a program can be started with
		if err := w.mountMemory(dir, 0o700, &corev1.EmptyDirVolumeSource{SizeLimit: &size}); err != nil {
			return err
		}
	}
	b, err := json.Marshal(env)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, container)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// fromMemory gives a container of a record that was read from the pod's directory its
// environment back. After a reboot there is none, nor a container that it could be of.
func (c *Container) fromMemory(dir, container string) {
	if !c.EnvInMemory {
		return
	}
	if b, err := os.ReadFile(filepath.Join(dir, volumesDir, secretDir, container)); err == nil {
		_ = json.Unmarshal(b, &c.Exec.Env) // written whole
	}
}

// MarshalJSON leaves out what is in memory.
func (c *Container) MarshalJSON() ([]byte, error) {
	type fields Container
	onDisk := fields(*c)
	if onDisk.EnvInMemory {
		onDisk.Exec.Env = nil
	}
	return json.Marshal(onDisk)
}

// forgetEnv takes from the record what an agent before this one wrote into it.
func (w *Worker) forgetEnv() (changed bool) {
	for _, spec := range w.rec.all() {
		c := w.rec.Containers[spec.Name]
		if c.EnvInMemory || len(c.Exec.Env) == 0 || !readsSecrets(spec) {
			continue
		}
		if c.State == Exited {
			c.Exec.Env, changed = nil, true
			continue
		}
		if err := w.setExec(spec, c, c.Exec); err != nil {
			w.log.Warn("the record of a pod holds values of Secrets, and keeps them until it ends", "error", err)
			continue
		}
		changed = true
	}
	return changed
}
