package node

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // rest_client_*: requests of this node's own components
	_ "k8s.io/component-base/metrics/prometheus/workqueue"  // workqueue_*: the controllers' queues
)

// showMetrics adds a room's numbers to those that the API shows at /metrics.
func (n *node) showMetrics(room prometheus.Collector, life *lifecycle) error {
	if err := legacyregistry.Registerer().Register(room); err != nil {
		return fmt.Errorf("show metrics: %w", err)
	}
	life.onStop("metrics", func() error {
		legacyregistry.Registerer().Unregister(room)
		return nil
	})
	return nil
}
