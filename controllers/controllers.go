// Package controllers runs, on the Raft leader, what turns declared objects into
// running ones: one folder a controller, and the scheduler. All decide with a pure
// planner and write through the Kubernetes API with ordinary client-go.
//
// Run blocks until every controller has stopped; node calls it when this node
// became leader, with clients fenced by the term, and cancels ctx when it is leader
// no more. Nothing but node imports this package.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/clusterroles"
	"kontiki/controllers/cronjob"
	"kontiki/controllers/csr"
	"kontiki/controllers/daemonset"
	"kontiki/controllers/deployment"
	"kontiki/controllers/disruption"
	"kontiki/controllers/endpoints"
	"kontiki/controllers/endpointslice"
	"kontiki/controllers/eventseries"
	"kontiki/controllers/garbage"
	"kontiki/controllers/hpa"
	"kontiki/controllers/ipaddress"
	"kontiki/controllers/job"
	"kontiki/controllers/loadbalancer"
	"kontiki/controllers/namespace"
	"kontiki/controllers/namespacedefaults"
	"kontiki/controllers/nodelifecycle"
	"kontiki/controllers/podgc"
	"kontiki/controllers/podsubnet"
	"kontiki/controllers/podview"
	"kontiki/controllers/replicaset"
	"kontiki/controllers/resourcequota"
	"kontiki/controllers/scaletarget"
	"kontiki/controllers/scheduler"
	"kontiki/controllers/servicecidr"
	"kontiki/controllers/slicemirror"
	"kontiki/controllers/statefulset"
	"kontiki/controllers/tokensecret"
)

// Config is what the controllers need. All fields but Logger, RootCA and Signer must be set;
// Connect sets what asks few questions of the API.
type Config struct {
	Client          kubernetes.Interface // system:kube-controller-manager, fenced by the term
	Metadata        metadata.Interface   // the same user and fence
	SchedulerClient kubernetes.Interface // system:kube-scheduler, fenced by the term
	Targets         *scaletarget.Targets // what has a size; the same user and fence as Client
	Metrics         hpa.Metrics          // what pods use

	RootCA []byte     // PEM that proves the API server; nothing is published if it is empty
	Signer csr.Signer // makes certificates that users ask for; none are made if it is nil

	ClusterCIDR   netip.Prefix // range of all pod subnets
	NodePrefixLen int          // of one node's subnet

	// LoadBalancer has Services of that type answered at the nodes' addresses,
	// except at ReservedPorts, which are the nodes' own.
	LoadBalancer  bool
	ReservedPorts []int32

	Ring   RingHealth
	Since  time.Time // when this node was elected
	Health *Health   // told how the controllers are; may be nil
	// SchedulerMetrics count what the scheduler does; may be nil.
	SchedulerMetrics *scheduler.Metrics
	Logger           *slog.Logger // slog.Default if nil
}

func (c Config) check() error {
	if c.Client == nil || c.Metadata == nil || c.SchedulerClient == nil || c.Targets == nil || c.Ring == nil {
		return errors.New("controllers: Client, Metadata, SchedulerClient, Targets and Ring are all needed")
	}
	return nil
}

// Run runs all controllers until ctx ends and each of them has stopped. It returns
// an error, at once, for a Config that cannot work and for an API that cannot say
// what it serves; and ErrHopeless when a controller does not stay up.
func Run(ctx context.Context, config Config) error {
	if err := config.check(); err != nil {
		return err
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Health == nil {
		config.Health = &Health{}
	}
	if config.SchedulerMetrics == nil {
		config.SchedulerMetrics = scheduler.NewMetrics()
	}
	recorders := newRecorders(ctx, config)
	defer recorders.stop()
	shared := informers.NewSharedInformerFactoryWithOptions(config.Client, 0, informers.WithTransform(trim))
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		return fmt.Errorf("index pods: %w", err)
	}
	all, err := served(ctx, config.Logger, config.Client.Discovery(), assemble(config, shared, recorders))
	if err != nil {
		return err
	}
	for i := range all { // each asks for its informers, so that they are started
		first, err := all[i].start()
		if err != nil {
			return fmt.Errorf("controller %s: %w", all[i].name, err)
		}
		all[i].first = first
	}
	ctx, cancel := context.WithCancel(ctx)
	shared.StartWithContext(ctx)
	var watching sync.WaitGroup
	defer shared.Shutdown()
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		shared.WaitForCacheSyncWithContext(ctx)
		if after := time.Since(config.Since); ctx.Err() == nil {
			config.Health.activeAfter(after)
			config.Logger.Info("controllers are active", "after", after)
		}
	})
	return supervise(ctx, config.Logger, config.Health, all)
}

func assemble(config Config, shared informers.SharedInformerFactory, recorders *recorders) []controller {
	return slices.Concat(workloadControllers(config, shared, recorders), serviceControllers(config, shared, recorders),
		clusterControllers(config, shared, recorders), volumeControllers(config.Client, shared, recorders, config.Logger))
}

// workloadControllers make pods, size them, and give them nodes.
func workloadControllers(config Config, shared informers.SharedInformerFactory, recorders *recorders) []controller {
	log, client := config.Logger, config.Client
	return []controller{
		{name: replicaset.Name, start: func() (runner, error) {
			return replicaset.New(client, shared, recorders.as(replicaset.Component), log, time.Now), nil
		}},
		{name: replicaset.ReplicationName, needs: kinds("v1", "replicationcontrollers"), start: func() (runner, error) {
			return replicaset.NewReplication(client, shared, recorders.as(replicaset.ReplicationComponent), log, time.Now), nil
		}},
		{name: deployment.Name, start: func() (runner, error) {
			return deployment.New(client, shared, recorders.as(deployment.Component), log, time.Now), nil
		}},
		{name: statefulset.Name, needs: append(kinds("apps/v1", "statefulsets", "controllerrevisions"), kinds("v1", "persistentvolumeclaims")...), start: func() (runner, error) {
			return statefulset.New(client, shared, recorders.as(statefulset.Component), log, time.Now), nil
		}},
		{name: daemonset.Name, needs: kinds("apps/v1", "daemonsets", "controllerrevisions"), start: func() (runner, error) {
			return daemonset.New(client, shared, recorders.as(daemonset.Component), log, time.Now), nil
		}},
		{name: job.Name, needs: kinds("batch/v1", "jobs"), start: func() (runner, error) {
			return job.New(client, shared, recorders.as(job.Component), log, time.Now), nil
		}},
		{name: cronjob.Name, needs: kinds("batch/v1", "jobs", "cronjobs"), start: func() (runner, error) {
			return cronjob.New(client, shared, recorders.as(cronjob.Component), log, time.Now), nil
		}},
		{name: disruption.Name, needs: append(kinds("policy/v1", "poddisruptionbudgets"), append(kinds("apps/v1", "statefulsets"), kinds("v1", "replicationcontrollers")...)...), start: func() (runner, error) {
			return disruption.New(client, shared, config.Targets, recorders.as(disruption.Component), log, time.Now), nil
		}},
		{name: scheduler.Name, start: func() (runner, error) {
			return scheduler.New(config.SchedulerClient, shared, recorders.scheduler, log, time.Now).Measured(config.SchedulerMetrics), nil
		}},
		{name: hpa.Name, needs: kinds("autoscaling/v2", "horizontalpodautoscalers"), start: func() (runner, error) {
			return hpa.New(client, shared, config.Targets, config.Metrics, recorders.as(hpa.Component), log, time.Now), nil
		}},
	}
}

// serviceControllers tell where Services are, and look after their addresses.
func serviceControllers(config Config, shared informers.SharedInformerFactory, recorders *recorders) []controller {
	log, client := config.Logger, config.Client
	all := []controller{
		{name: endpointslice.Name, start: func() (runner, error) {
			return endpointslice.New(client, shared, recorders.as(endpointslice.Component), log, time.Now), nil
		}},
		{name: endpoints.Name, needs: kinds("v1", "endpoints"), start: func() (runner, error) {
			return endpoints.New(client, shared, recorders.as(endpoints.Component), log), nil
		}},
		{name: slicemirror.Name, needs: kinds("v1", "endpoints"), start: func() (runner, error) {
			return slicemirror.New(client, shared, recorders.as(slicemirror.Component), log), nil
		}},
		{name: servicecidr.Name, needs: kinds("networking.k8s.io/v1", "servicecidrs", "ipaddresses"), start: func() (runner, error) {
			return servicecidr.New(client, shared, recorders.as(servicecidr.Component), log), nil
		}},
		{name: ipaddress.Name, needs: kinds("networking.k8s.io/v1", "servicecidrs", "ipaddresses"), start: func() (runner, error) {
			return ipaddress.New(client, shared, recorders.as(ipaddress.Component), log), nil
		}},
	}
	if config.LoadBalancer {
		all = append(all, controller{name: loadbalancer.Name, start: func() (runner, error) {
			return loadbalancer.New(client, shared, recorders.as(loadbalancer.Component), log, config.ReservedPorts), nil
		}})
	}
	return all
}

// clusterControllers look after nodes, namespaces, access and what nobody owns.
func clusterControllers(config Config, shared informers.SharedInformerFactory, recorders *recorders) []controller {
	log, client := config.Logger, config.Client
	all := []controller{
		{name: namespacedefaults.Name, needs: kinds("v1", "serviceaccounts", "configmaps"), start: func() (runner, error) {
			return namespacedefaults.New(client, shared, string(config.RootCA), log), nil
		}},
		{name: podsubnet.Name, start: func() (runner, error) {
			return podsubnet.New(client, shared, recorders.as(podsubnet.Component), log, config.ClusterCIDR, config.NodePrefixLen)
		}},
		{name: namespace.Name, start: func() (runner, error) {
			return namespace.New(client, config.Metadata, client.Discovery(), shared, log, time.Now), nil
		}},
		{name: nodelifecycle.Name, start: func() (runner, error) {
			return nodelifecycle.New(client, shared, config.Ring, recorders.as(nodelifecycle.Component), recorders.as(nodelifecycle.EvictionComponent), log, time.Now), nil
		}},
		{name: podgc.Name, start: func() (runner, error) {
			return podgc.New(client, shared, log, time.Now), nil
		}},
		{name: resourcequota.Name, needs: kinds("v1", "resourcequotas", "persistentvolumeclaims"), start: func() (runner, error) {
			return resourcequota.New(client, config.Metadata, config.Targets.Mapper, client.Discovery(), shared, log, time.Now), nil
		}},
		{name: clusterroles.Name, needs: kinds("rbac.authorization.k8s.io/v1", "clusterroles"), start: func() (runner, error) {
			return clusterroles.New(client, shared, log), nil
		}},
		{name: tokensecret.Name, needs: kinds("v1", "secrets", "serviceaccounts"), start: func() (runner, error) {
			return tokensecret.New(client, shared, string(config.RootCA), log), nil
		}},
		{name: garbage.Name, start: func() (runner, error) {
			return garbage.New(config.Metadata, client.Discovery(), recorders.as(garbage.Component), log), nil
		}},
	}
	if config.Signer != nil {
		all = append(all, controller{name: csr.Name, needs: kinds("certificates.k8s.io/v1", "certificatesigningrequests"), start: func() (runner, error) {
			return csr.New(client, shared, config.Signer, log, time.Now), nil
		}})
	}
	return all
}

// kinds names resources of one group version.
func kinds(groupVersion string, resources ...string) []schema.GroupVersionResource {
	gv, err := schema.ParseGroupVersion(groupVersion)
	if err != nil {
		panic("controllers: " + err.Error()) // written in this file
	}
	all := make([]schema.GroupVersionResource, 0, len(resources))
	for _, r := range resources {
		all = append(all, gv.WithResource(r))
	}
	return all
}

// trim drops what no controller reads before an object goes into a cache. A
// write without managed fields keeps those the server has.
func trim(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

// recorders write events, those of the scheduler with its own client and, as upstream's,
// to events.k8s.io.
type recorders struct {
	controllers record.EventBroadcaster
	scheduler   *eventseries.Recorder
	cancel      context.CancelFunc
	writing     sync.WaitGroup
}

func newRecorders(ctx context.Context, config Config) *recorders {
	ctx, cancel := context.WithCancel(ctx)
	r := &recorders{
		controllers: record.NewBroadcaster(record.WithContext(ctx)),
		scheduler:   eventseries.New(config.SchedulerClient.EventsV1(), config.Logger.With("controller", scheduler.Name), time.Now),
		cancel:      cancel,
	}
	r.controllers.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: config.Client.CoreV1().Events("")})
	r.writing.Go(func() { r.scheduler.Run(ctx) })
	return r
}

func (r *recorders) as(component string) record.EventRecorder {
	return r.controllers.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

func (r *recorders) stop() {
	r.controllers.Shutdown()
	r.cancel()
	r.writing.Wait()
}

func panicked(p any) error {
	return fmt.Errorf("panic: %v\n%s", p, debug.Stack())
}
