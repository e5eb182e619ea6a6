package service

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Programmer makes the kernel send connections where a table says.
type Programmer interface {
	// Replace makes the frontends exactly pools, in one step. The map is the
	// Programmer's from then on.
	Replace(pools map[Frontend]Pool) error
	// Update applies changes in one step; its cost is that of the changes.
	Update(changes []Change) error
	// Check repairs what others changed, and says whether it had to.
	Check() (repaired bool, err error)
}

// ByService is the name of the index of EndpointSlices by "namespace/service".
const ByService = "service"

// IndexByService is the function of that index.
func IndexByService(obj any) ([]string, error) {
	slice, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || slice.Labels[discoveryv1.LabelServiceName] == "" {
		return nil, nil
	}
	return []string{slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]}, nil
}

// Config is what a Watcher is made of.
type Config struct {
	NodeName string
	// Services and Slices are informers somebody else runs; Slices is indexed
	// ByService.
	Services, Slices cache.SharedIndexInformer
	// Self, which may be nil, holds this node's object: its zone is there.
	Self       cache.SharedIndexInformer
	Programmer Programmer
	// Reserved is an address that the node itself serves (the cluster's DNS): a
	// Service that claims it is not programmed.
	Reserved netip.Addr
	// Address returns the node's own address; ReservedPorts are TCP and UDP ports of
	// it that the node itself serves: no Service gets them.
	Address       func() netip.Addr
	ReservedPorts []uint16
	// Health is told of health checks of node ports; it may be nil.
	Health *Health
	// Dead returns the names of dead nodes, DeadChanged tells of changes; both may
	// be nil.
	Dead        func() map[string]bool
	DeadChanged <-chan struct{}
	Logger      *slog.Logger
}

// Watcher keeps a Programmer in step with the API.
type Watcher struct {
	cfg  Config
	wake chan struct{}

	dirtyMu sync.Mutex // protects dirty
	dirty   map[string]bool

	mu     sync.Mutex // protects the fields below, and orders calls of the Programmer
	table  *Table
	dead   map[string]bool
	addr   netip.Addr
	began  bool // all Services were given to the Programmer once
	failed bool // the Programmer lags behind the table
	// repairs counts how often the Programmer had to put right what others changed.
	repairs uint64
}

// NewWatcher subscribes to the informers, which must not have started.
func NewWatcher(cfg Config) (*Watcher, error) {
	w := &Watcher{cfg: cfg, wake: make(chan struct{}, 1), dirty: map[string]bool{}, table: NewTable()}
	if cfg.Address == nil {
		w.cfg.Address = func() netip.Addr { return netip.Addr{} }
	}
	w.addr = w.cfg.Address()
	if cfg.Dead != nil {
		w.dead = maps.Clone(cfg.Dead())
	}
	on := func(key func(any) []string) cache.ResourceEventHandlerFuncs {
		mark := func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			w.mark(key(obj)...)
		}
		return cache.ResourceEventHandlerFuncs{AddFunc: mark, UpdateFunc: func(old, now any) { mark(old); mark(now) }, DeleteFunc: mark}
	}
	_, err := cfg.Services.AddEventHandler(on(func(obj any) []string {
		if svc, ok := obj.(*corev1.Service); ok {
			return []string{svc.Namespace + "/" + svc.Name}
		}
		return nil
	}))
	if err == nil {
		_, err = cfg.Slices.AddEventHandler(on(func(obj any) []string {
			keys, _ := IndexByService(obj)
			return keys
		}))
	}
	if err == nil && cfg.Self != nil {
		_, err = cfg.Self.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { w.mark(cfg.Services.GetStore().ListKeys()...) },
			UpdateFunc: func(old, now any) {
				if zoneOf(old) != zoneOf(now) {
					w.mark(cfg.Services.GetStore().ListKeys()...)
				}
			},
		})
	}
	if err != nil {
		return nil, fmt.Errorf("following Services: %w", err)
	}
	return w, nil
}

func zoneOf(obj any) string {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return ""
	}
	return node.Labels[corev1.LabelTopologyZone]
}

// zone is this node's, as far as is known.
func (w *Watcher) zone() string {
	if w.cfg.Self == nil {
		return ""
	}
	obj, _, err := w.cfg.Self.GetStore().GetByKey(w.cfg.NodeName)
	if err != nil {
		return ""
	}
	return zoneOf(obj)
}

func (w *Watcher) mark(keys ...string) {
	w.dirtyMu.Lock()
	for _, k := range keys {
		w.dirty[k] = true
	}
	w.dirtyMu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Watcher) takeDirty() map[string]bool {
	w.dirtyMu.Lock()
	defer w.dirtyMu.Unlock()
	taken := w.dirty
	w.dirty = map[string]bool{}
	return taken
}

// Run follows the API until ctx ends. Nothing is programmed before all Services
// are known once, so that a node that restarts never forgets one in between.
func (w *Watcher) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), w.cfg.Services.HasSynced, w.cfg.Slices.HasSynced) {
		return
	}
	w.start()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			w.sync(w.takeDirty())
		case <-w.cfg.DeadChanged:
			w.deadChanged()
		}
	}
}

// start programs everything that is known, in one step.
func (w *Watcher) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.takeDirty()
	for _, key := range w.cfg.Services.GetStore().ListKeys() {
		w.table.Set(key, w.plan(key))
	}
	w.replaceLocked()
	w.began = true
}

// Started says whether all Services are known and were programmed once.
func (w *Watcher) Started() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.began && !w.failed
}

func (w *Watcher) replaceLocked() {
	err := w.cfg.Programmer.Replace(w.table.All())
	if err != nil {
		w.cfg.Logger.Error("programming Services", "error", err)
	}
	w.failed = err != nil
}

func (w *Watcher) plan(key string) map[Frontend]Pool {
	obj, ok, err := w.cfg.Services.GetStore().GetByKey(key)
	if err != nil || !ok {
		if w.cfg.Health != nil {
			w.cfg.Health.Set(key, nil, nil, Node{})
		}
		return nil
	}
	svc, _ := obj.(*corev1.Service)
	objs, err := w.cfg.Slices.GetIndexer().ByIndex(ByService, key)
	if err != nil {
		return nil
	}
	list := make([]*discoveryv1.EndpointSlice, 0, len(objs))
	for _, o := range objs {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			list = append(list, s)
		}
	}
	self := Node{Name: w.cfg.NodeName, Zone: w.zone(), Dead: w.dead, Addr: w.addr}
	if w.cfg.Health != nil {
		w.cfg.Health.Set(key, svc, list, self)
	}
	pools := Plan(svc, list, self)
	maps.DeleteFunc(pools, func(f Frontend, _ Pool) bool {
		return f.Addr.IsValid() && f.Addr == w.cfg.Reserved ||
			(f.Addr == w.addr || !f.Addr.IsValid()) && slices.Contains(w.cfg.ReservedPorts, f.Port)
	})
	return pools
}

func (w *Watcher) sync(keys map[string]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var changes []Change
	for key := range keys {
		changes = append(changes, w.table.Set(key, w.plan(key))...)
	}
	w.updateLocked(merge(changes))
}

// merge leaves one change per frontend, from its first state to its last: several
// owners may have touched one.
func merge(changes []Change) []Change {
	at := map[Frontend]int{}
	var out []Change
	for _, c := range changes {
		if i, ok := at[c.Frontend]; ok {
			out[i].New = c.New
			continue
		}
		at[c.Frontend] = len(out)
		out = append(out, c)
	}
	return out
}

func (w *Watcher) updateLocked(changes []Change) {
	if w.failed {
		w.replaceLocked()
		return
	}
	if len(changes) == 0 {
		return
	}
	if err := w.cfg.Programmer.Update(changes); err != nil {
		w.cfg.Logger.Error("programming Services, will be tried again", "error", err)
		w.failed = true
	}
}

func (w *Watcher) deadChanged() {
	now := maps.Clone(w.cfg.Dead())
	w.mu.Lock()
	differ := map[string]bool{}
	for name := range now {
		if now[name] != w.dead[name] {
			differ[name] = true
		}
	}
	for name := range w.dead {
		if now[name] != w.dead[name] {
			differ[name] = true
		}
	}
	w.dead = now
	w.mu.Unlock()
	keys := map[string]bool{}
	for _, obj := range w.cfg.Slices.GetStore().List() {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		for _, ep := range slice.Endpoints {
			if ep.NodeName != nil && differ[*ep.NodeName] {
				list, _ := IndexByService(slice)
				for _, k := range list {
					keys[k] = true
				}
				break
			}
		}
	}
	w.sync(keys)
}

// SetOwner puts frontends of another owner beside those of Services (a pod's host
// ports); none takes them away. When it returns nil they are in force.
func (w *Watcher) SetOwner(owner string, pools map[Frontend]Pool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	changes := w.table.Set(owner, pools)
	if len(changes) == 0 {
		return nil
	}
	err := w.cfg.Programmer.Update(changes)
	w.failed = w.failed || err != nil
	return err
}

// Check repairs what others changed in the kernel, or what failed before, and
// follows a change of the node's own address.
func (w *Watcher) Check() error {
	repaired, err := w.Repair()
	if repaired {
		w.cfg.Logger.Warn("somebody changed what Kontiki had programmed for Services, programmed it anew")
	}
	return err
}

// All returns every frontend with what is behind it.
func (w *Watcher) All() map[Frontend]Pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.table.All()
}

// Repair is Check for those who want to know whether anything was repaired.
func (w *Watcher) Repair() (repaired bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if addr := w.cfg.Address(); addr != w.addr {
		w.addr = addr
		w.mark(w.cfg.Services.GetStore().ListKeys()...)
	}
	if w.failed {
		w.replaceLocked()
		return true, nil
	}
	if repaired, err = w.cfg.Programmer.Check(); repaired {
		w.repairs++
	}
	return repaired, err
}

// Repairs is how often somebody else's change had to be put right.
func (w *Watcher) Repairs() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.repairs
}

// Frontends is how many there are.
func (w *Watcher) Frontends() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.table.claims)
}
